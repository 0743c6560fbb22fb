"""The weights' gradient of 3x3 convolutions for NVIDIA Hopper GPUs (Pallas, Mosaic GPU lowering).

The sum over all pixels of input times cotangent, for each of 9 taps, is a matrix product with few rows and columns
and a long contracted dimension. A program holds such sums of 64 inputs and 64 outputs in registers and adds window
after window of 8 x 8 pixels; the sums of all programs are added by XLA, always in the same order:

* A window of the input is fetched once, with its margin. A line of 8 pixels of 64 channels is a tile of the matrix
  unit, wherever it begins: a shift by a tap is one of the address, see `mosaic.py`.
* Each of three blocks of threads has the taps of one line. The three windows, shifted by a column each, are to the
  matrix unit one operand of 3 x 64 columns whose tiles overlap; so it reads the other one, the cotangent, only once.
* Pixels are the slower dimension of both operands in memory; the matrix unit transposes 16-bit operands as it reads.
* A fourth block of threads fetches ahead.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import nvvm

from stvsr_jax.ops.mosaic.windows import (
    AS_LINES,
    CHUNK,
    COLUMNS,
    SHARED_BYTES,
    SUMS,
    add_product,
    describe_sums,
    make_start,
    window_shape,
)

_SIZE = 3  # taps of a line and of a column
_WINDOWS_AS_SUMS = 8  # this times all windows is the square of the best number of programs; estimated


class Plan(NamedTuple):
    """How the work is divided.

    Attributes:
      lines: of a window, a multiple of 8.
      stages: windows in shared memory.
      programs: that share the windows of each 64 inputs and 64 outputs.
    """

    lines: int
    stages: int
    programs: int


def make_plan(parts: int, images: int, height: int, width: int, sms: int) -> Plan:
    """Returns how to add so many images' products for so many parts of 64 inputs and 64 outputs."""
    lines = 8
    windows = images * pl.cdiv(height, lines) * pl.cdiv(width, COLUMNS)
    # More programs have fewer windows each, but more sums to write and to add.
    best = math.isqrt(_WINDOWS_AS_SUMS * windows * parts)
    programs = min(max(min(sms, best) // parts, 1), windows)
    stage = math.prod(window_shape(lines, _SIZE)) + lines * COLUMNS * CHUNK
    return Plan(lines, SHARED_BYTES // (2 * stage), programs)


def is_supported(x: jax.Array, cotangent: jax.Array) -> bool:
    """Returns whether a Hopper GPU can run the kernel for these arguments."""
    features = cotangent.shape[-1]
    return (
        x.dtype in (jnp.bfloat16, jnp.float16)
        and x.dtype == cotangent.dtype
        and x.shape[-1] % CHUNK == 0
        and features % 8 == 0
        and features > 8
    )


def run(
    inputs: Sequence[jax.Array],
    cotangents: Sequence[jax.Array],
    *,
    sms: int,
    plan: Plan | None = None,
    interpret: Any = None,
) -> jax.Array:
    """Returns the gradient of the kernel of each of S convolutions, 3x3 with stride 1 and padding 1.

    Args:
      inputs: T arrays [G, B, H, W, C], all of them were convolved; set s reads the part s % G.
      cotangents: of the T outputs, [S, B, H, W, F], in the dtype of the inputs.
      sms: of the GPU.
      plan: None: the one that is made for these shapes.
      interpret: Mosaic GPU's `InterpretGPUParams` to run anywhere, very slowly, for tests.

    Returns:
      [S, 3, 3, C, F] float32, the sum over all T.
    """
    times, dtype = len(inputs), inputs[0].dtype
    groups, batch, height, width, channels = inputs[0].shape
    sets, features = cotangents[0].shape[0], cotangents[0].shape[-1]
    chunks, blocks = channels // CHUNK, pl.cdiv(features, CHUNK)
    parts = sets * chunks * blocks
    lines, stages, programs = plan or make_plan(parts, times * batch, height, width, sms)
    across, down = pl.cdiv(width, COLUMNS), pl.cdiv(height, lines)
    windows = times * batch * down * across
    margin = 0 if interpret is None else 1  # interpreted, a copy knows no places before the beginning
    start, multiply_window, write = _make_products(lines, interpret)

    def body(*refs):
        sources, out_ref = list(zip(refs[:times], refs[times : 2 * times], strict=True)), refs[-1]
        part, program, thread = (lax.axis_index(name) for name in ("part", "program", "thread"))
        block, chunk = lax.rem(part, blocks), lax.rem(lax.div(part, blocks), chunks)
        number_of_set = lax.div(part, blocks * chunks)
        count = lax.div(windows - program + programs - 1, programs)

        def scope(fetched, cotangents_there, is_there, is_free):
            def fetch():
                @pl.loop(0, count)
                def _(step):
                    window, stage = program + step * programs, lax.rem(step, stages)
                    line = lax.div(window, across)
                    image = lax.div(line, down)
                    top, left = lax.rem(line, down) * lines, lax.rem(window, across) * COLUMNS
                    time, image = lax.div(image, batch), lax.rem(image, batch)

                    def fetch_from(x_ref, cotangent_ref):
                        plgpu.copy_gmem_to_smem(
                            x_ref.at[
                                lax.rem(number_of_set, groups) * batch + image,
                                pl.ds(top - 1 + margin, lines + _SIZE - 1),
                                pl.ds(left - 1 + margin, COLUMNS + _SIZE - 1),
                                pl.ds(chunk * CHUNK, CHUNK),
                            ],
                            fetched.at[stage, pl.ds(0, lines + _SIZE - 1)],
                            is_there.at[stage],
                        )
                        plgpu.copy_gmem_to_smem(
                            cotangent_ref.at[
                                number_of_set * batch + image,
                                pl.ds(top, lines),
                                pl.ds(left, COLUMNS),
                                pl.ds(block * CHUNK, CHUNK),
                            ],
                            cotangents_there.at[stage],
                            is_there.at[stage],
                        )

                    plgpu.barrier_wait(is_free.at[stage])
                    copies = [functools.partial(fetch_from, *source) for source in sources]
                    if times == 1:
                        copies[0]()
                    else:
                        lax.switch(time, copies)

            def multiply():
                line = thread

                @pl.loop(0, stages - 1)  # the last one is free with the first step
                def _(stage):
                    plgpu.barrier_arrive(is_free.at[stage])

                def add_window(step, sums):
                    stage = lax.rem(step, stages)
                    plgpu.barrier_wait(is_there.at[stage])
                    window = fetched.at[stage, pl.ds(line, lines)]
                    sums = multiply_window(sums, window, cotangents_there.at[stage])
                    plgpu.wgmma_wait(1)  # for the step before
                    plgpu.barrier_arrive(is_free.at[lax.rem(step + stages - 1, stages)])
                    return sums

                sums = lax.fori_loop(0, count, add_window, start())
                outputs = pl.ds(block * CHUNK, CHUNK)
                write(sums, out_ref.at[program, number_of_set, chunk, line, :, outputs])

            lax.switch(lax.div(thread, _SIZE), [multiply, fetch])

        pl.run_scoped(
            scope,
            plgpu.SMEM((stages, *window_shape(lines, _SIZE)), dtype, transforms=AS_LINES),
            plgpu.SMEM((stages, lines, COLUMNS, CHUNK), dtype, transforms=AS_LINES),
            plgpu.Barrier(num_arrivals=2, num_barriers=stages),
            plgpu.Barrier(num_arrivals=_SIZE, num_barriers=stages),
            collective_axes="thread",
        )

    call = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(
            (programs, sets, chunks, _SIZE, _SIZE * CHUNK, blocks * CHUNK), jnp.float32
        ),
        grid=(parts, programs),
        grid_names=("part", "program"),
        num_threads=_SIZE + 1,
        thread_name="thread",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name="conv3x3_weights",
        interpret=interpret,
    )
    inputs, cotangents = ([x.reshape(-1, *x.shape[2:]) for x in arrays] for arrays in (inputs, cotangents))
    inputs = [jnp.pad(x, ((0, 0), (margin, 0), (margin, 0), (0, 0))) for x in inputs]
    sums = jnp.sum(call(*inputs, *cotangents), axis=0)[..., :features]
    sums = sums.reshape(sets, chunks, _SIZE, _SIZE, CHUNK, features)
    return jnp.moveaxis(sums, 1, 3).reshape(sets, _SIZE, _SIZE, channels, features)


def _make_products(lines, interpret):
    """Returns three functions of the sums [outputs, 3 x inputs]: the start, with one window's products, to memory."""
    shape = (CHUNK, _SIZE * CHUNK)
    if interpret is not None:

        def multiply_values(sums, window, cotangent):
            window, cotangent = window[...], cotangent[...]
            shifted = [window[:, column : column + COLUMNS] for column in range(_SIZE)]
            return sums + jnp.dot(
                cotangent.reshape(-1, CHUNK).T,
                jnp.concatenate(shifted, axis=-1).reshape(-1, shape[1]),
                preferred_element_type=jnp.float32,
            )

        def write_values(sums, out):
            out[...] = sums.T

        return lambda: jnp.zeros(shape, jnp.float32), multiply_values, write_values

    @plgpu.inline_mgpu(
        arg_types=(SUMS, plgpu.RefType(AS_LINES), plgpu.RefType(AS_LINES)), return_type=describe_sums(shape)
    )
    def multiply(context, sums, window, cotangent):
        # Tiles along outputs, lines, outputs of a tile, pixels of a line.
        outputs = mgpu.utils.memref_transpose(mgpu.memref_unsqueeze(cotangent, 0), (0, 1, 3, 2))
        # Lines, shifts by a column, pixels of a line, inputs.
        line, pixel = (COLUMNS + _SIZE - 1) * CHUNK, CHUNK
        inputs_type = ir.MemRefType.get(
            (lines, _SIZE, COLUMNS, CHUNK),
            window.type.element_type,
            ir.StridedLayoutAttr.get(0, (line, pixel, pixel, 1)),
            window.type.memory_space,
        )
        inputs = mgpu.utils.ptr_as_memref(mgpu.utils.memref_ptr(window), inputs_type)
        nvvm.wgmma_fence_aligned()
        return add_product(sums, outputs, inputs)

    @plgpu.inline_mgpu(arg_types=(SUMS, plgpu.RefType()))
    def write(context, sums, out):
        nvvm.wgmma_wait_group_sync_aligned(0)
        sums = mgpu.optimization_barrier(sums)  # which no read of the sums can leave behind
        sums.store_untiled(mgpu.utils.memref_transpose(out, (1, 0)), optimized=False)

    return make_start(shape), multiply, write
