"""The gradient w.r.t. the weights of 3x3 convolutions for NVIDIA Hopper GPUs (Pallas, Mosaic GPU lowering).

For each of 9 taps it is a matrix product with few rows and columns and a long contracted dimension: input times
cotangent, reduced over all pixels. A CTA holds the accumulators of 64 inputs and 64 outputs and adds window after window
of 8x8 pixels. XLA reduces the partial results of all CTAs, always in the same order.

* A window of the input is fetched once by TMA, with its margin. Each tap is another address of it
  (`ops/mosaic/windows.py`).
* Each of three consumer warpgroups has the taps of one line. Three windows, each a column further, are one operand of
  3 x 64 columns whose tiles overlap in shared memory. So wgmma reads the other operand, the cotangent, only once.
* Pixels are the slower dimension of both operands; wgmma transposes 16-bit operands as it reads.

docs/kernels.md draws the schedule.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import nvvm

from stvsr_jax.ops.mosaic import private
from stvsr_jax.ops.mosaic.private import mgpu
from stvsr_jax.ops.mosaic.windows import AS_LINES, CHUNK, COLUMNS, SMEM_BYTES, window_shape

_SIZE = 3  # taps of a line, and of a column; as many consumer warpgroups
_WINDOWS_AS_PARTIALS = 8  # this times all windows is the square of the best number of CTAs; estimated


class Plan(NamedTuple):
    """How the work is divided.

    Attributes:
      lines: of a window, a multiple of 8.
      stages: windows in shared memory.
      ctas: that share the windows of each 64 inputs and 64 outputs.
    """

    lines: int
    stages: int
    ctas: int


def make_plan(parts: int, images: int, height: int, width: int, sms: int) -> Plan:
    """Returns the plan for `parts` pairs of 64 inputs and 64 outputs and `images` images [height, width]."""
    lines = 8
    windows = images * pl.cdiv(height, lines) * pl.cdiv(width, COLUMNS)
    # More CTAs have fewer windows each, but more partial results to write and to reduce.
    best = math.isqrt(_WINDOWS_AS_PARTIALS * windows * parts)
    ctas = min(max(min(sms, best) // parts, 1), windows)
    stage = math.prod(window_shape(lines, _SIZE)) + lines * COLUMNS * CHUNK
    return Plan(lines=lines, stages=SMEM_BYTES // (2 * stage), ctas=ctas)


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
    """Returns the gradients w.r.t. the kernels of S convolutions, 3x3 with stride 1 and padding 1.

    Args:
      inputs: T arrays [G, B, H, W, C]; set s has read part s % G.
      cotangents: of the T outputs, [S, B, H, W, F] in the dtype of the inputs.
      sms: SMs of the GPU.
      plan: None: the one for these shapes.
      interpret: Mosaic GPU's `InterpretGPUParams`, to run anywhere, very slowly, for tests.

    Returns:
      [S, 3, 3, C, F] float32, reduced over all T.
    """
    groups, batch, height, width, channels = inputs[0].shape
    sets, features = cotangents[0].shape[0], cotangents[0].shape[-1]
    chunks, blocks = channels // CHUNK, pl.cdiv(features, CHUNK)
    plan = plan or make_plan(sets * chunks * blocks, len(inputs) * batch, height, width, sms)
    p = _Problem(
        times=len(inputs),
        groups=groups,
        batch=batch,
        across=pl.cdiv(width, COLUMNS),
        down=pl.cdiv(height, plan.lines),
        margin=0 if interpret is None else 1,
        plan=plan,
        interpret=interpret,
    )
    dtype = inputs[0].dtype
    smem = {
        "windows": plgpu.SMEM((plan.stages, *window_shape(plan.lines, _SIZE)), dtype, transforms=AS_LINES),
        "cotangents": plgpu.SMEM((plan.stages, plan.lines, COLUMNS, CHUNK), dtype, transforms=AS_LINES),
        "full": plgpu.Barrier(num_arrivals=2, num_barriers=plan.stages),
        "empty": plgpu.Barrier(num_arrivals=_SIZE, num_barriers=plan.stages),
    }

    def body(*refs):
        sources = list(zip(refs[: p.times], refs[p.times : 2 * p.times], strict=True))
        part, cta, wg = (lax.axis_index(name) for name in ("part", "cta", "wg"))
        block, chunk = lax.rem(part, blocks), lax.rem(lax.div(part, blocks), chunks)
        work = _Work(number=lax.div(part, blocks * chunks), chunk=chunk, block=block, cta=cta)
        count = lax.div(p.windows - cta + plan.ctas - 1, plan.ctas)

        def scope(*held):
            held = _Smem(**dict(zip(smem, held, strict=True)))
            compute = functools.partial(_compute_wg, p, refs[-1], held, work, count, wg)
            memory = functools.partial(_memory_wg, p, sources, held, work, count)
            lax.switch(lax.div(wg, _SIZE), [compute, memory])

        pl.run_scoped(scope, *smem.values(), collective_axes="wg")

    call = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(
            (plan.ctas, sets, chunks, _SIZE, _SIZE * CHUNK, blocks * CHUNK), jnp.float32
        ),
        grid=(sets * chunks * blocks, plan.ctas),
        grid_names=("part", "cta"),
        num_threads=_SIZE + 1,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name="conv3x3_weights",
        interpret=interpret,
    )
    inputs, cotangents = ([x.reshape(-1, *x.shape[2:]) for x in arrays] for arrays in (inputs, cotangents))
    inputs = [jnp.pad(x, ((0, 0), (p.margin, 0), (p.margin, 0), (0, 0))) for x in inputs]
    total = jnp.sum(call(*inputs, *cotangents), axis=0)[..., :features]
    total = total.reshape(sets, chunks, _SIZE, _SIZE, CHUNK, features)
    return jnp.moveaxis(total, 1, 3).reshape(sets, _SIZE, _SIZE, channels, features)


class _Problem(NamedTuple):
    """What is static in a call.

    Attributes:
      times, groups, batch: T, G and B of `run`.
      across, down: windows in a row and in a column of an image.
      margin: pixels in front of the images; the interpreter's copies cannot begin before an array.
      plan, interpret: as of `run`.
    """

    times: int
    groups: int
    batch: int
    across: int
    down: int
    margin: int
    plan: Plan
    interpret: Any

    @property
    def windows(self) -> int:
        return self.times * self.batch * self.down * self.across


class _Work(NamedTuple):
    """What a CTA does: set `number`, chunk of inputs, block of outputs, and which of the CTAs that share them it is."""

    number: Any
    chunk: Any
    block: Any
    cta: Any


class _Smem(NamedTuple):
    """What a CTA has in shared memory.

    Attributes:
      windows: of the input with their margins, [stages, lines, columns, 64].
      cotangents: [stages, lines, columns, 64].
      full: both have arrived in a stage.
      empty: all three consumers have read a stage.
    """

    windows: Any
    cotangents: Any
    full: Any
    empty: Any


def _memory_wg(p, sources, smem, work, count):
    """Fetches the CTA's windows and their cotangents."""
    lines, stages, ctas = p.plan

    @pl.loop(0, count)
    def _(step):
        window, stage = work.cta + step * ctas, lax.rem(step, stages)
        line = lax.div(window, p.across)
        image = lax.div(line, p.down)
        top, left = lax.rem(line, p.down) * lines, lax.rem(window, p.across) * COLUMNS
        time, image = lax.div(image, p.batch), lax.rem(image, p.batch)

        def fetch_from(x_ref, cotangent_ref):
            plgpu.copy_gmem_to_smem(
                x_ref.at[
                    lax.rem(work.number, p.groups) * p.batch + image,
                    pl.ds(top - 1 + p.margin, lines + _SIZE - 1),
                    pl.ds(left - 1 + p.margin, COLUMNS + _SIZE - 1),
                    pl.ds(work.chunk * CHUNK, CHUNK),
                ],
                smem.windows.at[stage, pl.ds(0, lines + _SIZE - 1)],
                smem.full.at[stage],
            )
            plgpu.copy_gmem_to_smem(
                cotangent_ref.at[
                    work.number * p.batch + image,
                    pl.ds(top, lines),
                    pl.ds(left, COLUMNS),
                    pl.ds(work.block * CHUNK, CHUNK),
                ],
                smem.cotangents.at[stage],
                smem.full.at[stage],
            )

        plgpu.barrier_wait(smem.empty.at[stage])
        copies = [functools.partial(fetch_from, *source) for source in sources]
        if p.times == 1:
            copies[0]()
        else:
            lax.switch(time, copies)

    if p.interpret is not None:
        # Who waits for a barrier at all has to see it complete each time, says the interpreter of jax 0.11.
        @pl.loop(0, stages - 1)
        def _(step):
            plgpu.barrier_wait(smem.empty.at[lax.rem(count + step, stages)])


def _compute_wg(p, out_ref, smem, work, count, wg):
    """Reduces the products of the taps of line `wg` over the CTA's windows."""
    lines, stages, _ = p.plan
    zeros, multiply_window, write = _make_products(lines, p.interpret)

    # A step frees the stage of the step before, since its own wgmma still runs. So the last stage is freed by step 0.
    @pl.loop(0, stages - 1)
    def _(stage):
        plgpu.barrier_arrive(smem.empty.at[stage])

    def add_window(step, acc):
        stage = lax.rem(step, stages)
        plgpu.barrier_wait(smem.full.at[stage])
        window = smem.windows.at[stage, pl.ds(wg, lines)]
        acc = multiply_window(acc, window, smem.cotangents.at[stage])
        plgpu.wgmma_wait(1)  # for the step before
        plgpu.barrier_arrive(smem.empty.at[lax.rem(step + stages - 1, stages)])
        return acc

    acc = lax.fori_loop(0, count, add_window, zeros())
    outputs = pl.ds(work.block * CHUNK, CHUNK)
    write(acc, out_ref.at[work.cta, work.number, work.chunk, wg, :, outputs])


def _make_products(lines, interpret):
    """Returns functions of an accumulator [outputs, 3 x inputs]: zeros, with one window's products, to memory."""
    shape = (CHUNK, _SIZE * CHUNK)
    if interpret is not None:

        def multiply_values(acc, window, cotangent):
            window, cotangent = window[...], cotangent[...]
            shifted = [window[:, column : column + COLUMNS] for column in range(_SIZE)]
            return acc + jnp.dot(
                cotangent.reshape(-1, CHUNK).T,
                jnp.concatenate(shifted, axis=-1).reshape(-1, shape[1]),
                preferred_element_type=jnp.float32,
            )

        def write_values(acc, out):
            out[...] = acc.T

        return lambda: jnp.zeros(shape, jnp.float32), multiply_values, write_values

    @plgpu.inline_mgpu(
        arg_types=(private.ACC, plgpu.RefType(AS_LINES), plgpu.RefType(AS_LINES)),
        return_type=private.describe_acc(shape),
    )
    def multiply(context, acc, window, cotangent):
        # [tiles of outputs, lines, outputs of a tile, pixels of a line]
        outputs = mgpu.utils.memref_transpose(mgpu.memref_unsqueeze(cotangent, 0), (0, 1, 3, 2))
        # [lines, shifts by a column, pixels of a line, inputs]: the strides of line and shift overlap.
        line, pixel = (COLUMNS + _SIZE - 1) * CHUNK, CHUNK
        inputs_type = ir.MemRefType.get(
            (lines, _SIZE, COLUMNS, CHUNK),
            window.type.element_type,
            ir.StridedLayoutAttr.get(0, (line, pixel, pixel, 1)),
            window.type.memory_space,
        )
        inputs = mgpu.utils.ptr_as_memref(mgpu.utils.memref_ptr(window), inputs_type)
        nvvm.wgmma_fence_aligned()
        return private.start_wgmma(acc, outputs, inputs)

    @plgpu.inline_mgpu(arg_types=(private.ACC, plgpu.RefType()))
    def write(context, acc, out):
        nvvm.wgmma_wait_group_sync_aligned(0)
        acc = mgpu.optimization_barrier(acc)  # no read of it moves up before the wait
        acc.store_untiled(mgpu.utils.memref_transpose(out, (1, 0)), optimized=False)

    return private.make_zeros(shape), multiply, write
