"""Copies of whole images for NVIDIA Hopper GPUs (Pallas, Mosaic GPU lowering), at the speed of memory.

A CTA copies blocks of one image through shared memory by TMA, several at a time. No thread touches a value. XLA passes
the kernel slices of arrays where they lie; for a Triton kernel it would copy them first.

docs/kernels.md draws the schedule.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

_VALUES = 64  # of a line: 128 bytes
_MOST_LINES, _FEWEST_LINES = 128, 16  # of a block
_STAGES = 4  # blocks in shared memory
_CTAS = 3  # for each SM: so many fit into its shared memory


def is_supported(arrays: Sequence[jax.Array]) -> bool:
    """Returns whether a Hopper GPU can run the kernel: 16 bits, images of one size that divides into blocks."""
    image, dtype = arrays[0].shape[-3:], arrays[0].dtype
    return (
        dtype in (jnp.bfloat16, jnp.float16)
        and all((x.shape[-3:], x.dtype) == (image, dtype) for x in arrays)
        and math.prod(image) % _VALUES == 0
        and lines_of_block(math.prod(image) // _VALUES) >= _FEWEST_LINES
    )


def lines_of_block(lines: int) -> int:
    """Returns the lines of a block of an image of `lines` lines: the largest divisor up to 128.

    All blocks are whole. What is copied beyond an image would overwrite the next one.
    """
    return next(size for size in range(min(lines, _MOST_LINES), 0, -1) if lines % size == 0)


def run(arrays: Sequence[jax.Array], table: jax.Array, *, sms: int, interpret: Any = None) -> jax.Array:
    """Runs the kernel.

    Args:
      arrays: [.., H, W, C] each.
      table: [M] int32, which image each result is, counted through all arrays.
      sms: SMs of the GPU.
      interpret: Mosaic GPU's `InterpretGPUParams`, to run anywhere, very slowly, for tests.

    Returns:
      [M, H, W, C].
    """
    shape, dtype = arrays[0].shape[-3:], arrays[0].dtype
    lines = math.prod(shape) // _VALUES
    size = lines_of_block(lines)
    blocks = lines // size
    ctas = min(max(_CTAS * sms // len(table), 1), blocks)  # of each result
    arrays = [x.reshape(-1, lines, _VALUES) for x in arrays]
    begins = np.cumsum([0, *(len(x) for x in arrays)]).tolist()

    def body(table_ref, *refs):
        *array_refs, out_ref = refs
        index = lax.axis_index("cta")
        place, cta = lax.div(index, ctas), lax.rem(index, ctas)
        image = table_ref[place]
        count = lax.div(blocks - cta + ctas - 1, ctas)
        ahead = lax.min(count, _STAGES - 1)

        def at(ref, number, step):
            return ref.at[number, pl.ds((cta + step * ctas) * size, size)]

        def scope(stages, full):
            fetch = functools.partial(_fetch, array_refs, begins, image, stages, full, at)

            def store(step):
                stage = lax.rem(step, _STAGES)
                plgpu.barrier_wait(full.at[stage])
                plgpu.copy_smem_to_gmem(stages.at[stage], at(out_ref, place, step))

            pl.loop(0, ahead)(fetch)

            @pl.loop(0, count - ahead)
            def _(step):
                store(step)
                plgpu.wait_smem_to_gmem(1, wait_read_only=True)  # the store before has read the stage to fill
                fetch(step + ahead)

            pl.loop(count - ahead, count)(store)
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        pl.run_scoped(scope, plgpu.SMEM((_STAGES, size, _VALUES), dtype), plgpu.Barrier(num_barriers=_STAGES))

    call = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((len(table), lines, _VALUES), dtype),
        grid=(len(table) * ctas,),
        grid_names=("cta",),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name="arrange",
        interpret=interpret,
    )
    return call(table, *arrays).reshape(-1, *shape)


def _fetch(array_refs, begins, image, stages, full, at, step):
    """Fetches a block of an image from the array that holds it."""
    stage = lax.rem(step, _STAGES)

    def fetch_from(ref, begin):
        plgpu.copy_gmem_to_smem(at(ref, image - begin, step), stages.at[stage], full.at[stage])

    copies = [
        functools.partial(fetch_from, *operands) for operands in zip(array_refs, begins[:-1], strict=True)
    ]
    if len(copies) == 1:
        copies[0]()
    else:
        lax.switch(sum(lax.min(lax.div(image, end), 1) for end in begins[1:-1]), copies)
