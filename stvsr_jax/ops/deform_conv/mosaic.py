"""The whole deformable convolution for NVIDIA Hopper GPUs, without gradient (Pallas, Mosaic GPU lowering).

A warpgroup samples one tap of 64 points into registers, the A operand of wgmma, and goes on with the next tap. The
samples never reach memory. The 8 neighbouring channels of a lane are those of one offset group: it computes their
coordinates once and loads a corner at once.

docs/kernels.md draws the schedule.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm

from stvsr_jax.ops.mosaic import lane, points
from stvsr_jax.ops.mosaic.lane import Place, make_constant, times
from stvsr_jax.ops.mosaic.layout import POINTS, reorder
from stvsr_jax.ops.mosaic.private import ACC
from stvsr_jax.ops.mosaic.windows import AS_TILES, CHUNK

_WARPGROUPS = 2  # of a CTA; each samples and multiplies
_TAPS = 9
OFFSET_GROUPS = 8
_CHANNELS = CHUNK // OFFSET_GROUPS  # of an offset group
_HEAD = 3 * _TAPS * OFFSET_GROUPS


def is_supported(x: jax.Array, head: jax.Array, kernel: jax.Array) -> bool:
    """Returns whether the kernel can run; arguments as of `run`."""
    return (
        x.dtype in (jnp.bfloat16, jnp.float16)
        and x.shape[-1] == CHUNK
        and head.shape[-1] == _HEAD
        and kernel.shape[1:] == (_TAPS * CHUNK, CHUNK)
        and math.prod(x.shape[1:4]) * _HEAD < 2**31
    )


def run(
    x: jax.Array,
    head: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    slope: float | None,
    sms: int,
    interpret: Any = None,
) -> jax.Array:
    """Runs the kernel.

    Args:
      x: [S, B, H, W, 64] in 16 bits, what S convolutions sample.
      head: [S, B, H, W, 216]: tap, then displacement y, x and the mask's logit, then offset group.
      kernel: [S, 576, 64]: tap, then channel.
      bias: [S, 64].
      slope: negative slope of the ReLU, None: linear.
      sms: SMs of the GPU.
      interpret: Mosaic GPU's `InterpretGPUParams`, to run anywhere, very slowly, for tests.

    Returns:
      [S, B, H, W, 64] in the dtype of x.
    """
    sets, batch, *size, _ = x.shape
    count, dtype = batch * size[0] * size[1], x.dtype
    blocks = pl.cdiv(count, POINTS)
    ctas = min(max(sms // sets, 1), pl.cdiv(blocks, _WARPGROUPS))
    point_ops = points.make(count, dtype, interpret)
    sample, finish = _make_operations(_Images(*size, count), slope, dtype, interpret)
    smem = {
        "weights": plgpu.SMEM((_TAPS * CHUNK, CHUNK), dtype, transforms=AS_TILES),
        "bias": plgpu.SMEM((CHUNK,), jnp.float32),
        "full": plgpu.Barrier(num_arrivals=_TAPS + 1),
    }

    def body(x_ref, head_ref, kernel_ref, bias_ref, out_ref):
        number, cta, wg = (lax.axis_index(name) for name in ("set", "cta", "wg"))
        first = cta * _WARPGROUPS + wg

        def scope(*held):
            held = _Smem(**dict(zip(smem, held, strict=True)))
            fetch = functools.partial(_fetch_weights, kernel_ref, bias_ref, held, number)
            lax.switch(lax.min(wg, 1), [fetch, lambda: None])  # warpgroup 0 for both
            plgpu.barrier_wait(held.full)

            @pl.loop(0, lax.div(blocks - first + ctas * _WARPGROUPS - 1, ctas * _WARPGROUPS))
            def _(step):
                point = (first + step * ctas * _WARPGROUPS) * POINTS

                def add_tap(tap, acc):
                    operand = sample(x_ref.at[number], head_ref.at[number], tap, point)
                    weights = held.weights.at[pl.ds(tap * CHUNK, CHUNK)]
                    return point_ops.multiply(acc, [operand], [weights])

                acc = lax.fori_loop(0, _TAPS, add_tap, point_ops.zeros())
                finish(acc, held.bias, out_ref.at[number], point)

        pl.run_scoped(scope, *smem.values(), collective_axes="wg")

    call = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((sets, count, CHUNK), dtype),
        grid=(sets, ctas),
        grid_names=("set", "cta"),
        num_threads=_WARPGROUPS,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name="deform_conv",
        interpret=interpret,
    )
    kernel = reorder(kernel.astype(dtype), 1, 2)
    bias = reorder(bias.astype(jnp.float32), 1)
    return call(x.reshape(sets, count, -1), head.reshape(sets, count, -1), kernel, bias).reshape(x.shape)


class _Smem(NamedTuple):
    """What a CTA has in shared memory: weights [9 x 64, 64], bias [64], and the barrier that both have arrived."""

    weights: Any
    bias: Any
    full: Any


def _fetch_weights(kernel_ref, bias_ref, smem, number):
    @pl.loop(0, _TAPS)
    def _(tap):
        part = smem.weights.at[pl.ds(tap * CHUNK, CHUNK)]
        plgpu.copy_gmem_to_smem(kernel_ref.at[number, pl.ds(tap * CHUNK, CHUNK)], part, smem.full)

    plgpu.copy_gmem_to_smem(bias_ref.at[number], smem.bias, smem.full)


class _Images(NamedTuple):
    """Height, width and the number of pixels of all images of a set."""

    height: int
    width: int
    count: int


def _make_operations(images, slope, dtype, interpret):
    """Returns `sample` (image, head, tap, first point) -> operand, and `finish` (acc, bias, result, first point)."""
    if interpret is not None:
        return _make_interpreted_operations(images, slope, dtype)
    splat, plain = plgpu.Layout.WG_SPLAT(()), plgpu.RefType()
    operand = plgpu.ShapeDtypeStruct((POINTS, CHUNK), dtype, layout=plgpu.Layout.WGMMA)

    @plgpu.inline_mgpu(arg_types=(plain, plain, splat, splat), return_type=operand)
    def sample(context, x, head, tap, point):
        return _sample(x, head, tap.registers.item(), Place(point, images.count), images, dtype)

    @plgpu.inline_mgpu(arg_types=(ACC, plain, plain, splat))
    def finish(context, acc, bias, out, point):
        values = lane.add_bias(acc, bias)
        if slope is not None:
            factor = make_constant(slope, ir.F32Type.get())
            values = [arith.maximumf(v, arith.mulf(v, factor)) for v in values]
        lane.store_chunk(values, Place(point, images.count), out, None)

    return sample, finish


def _make_interpreted_operations(images, slope, dtype):
    def sample(x, head, tap, point):
        pixel = jnp.minimum(point + jnp.arange(POINTS), images.count - 1)
        parts = head[...][pixel].reshape(POINTS, _TAPS, 3, OFFSET_GROUPS)
        shift_y, shift_x, logit = jnp.moveaxis(parts.astype(jnp.float32)[:, tap], 1, 0)  # [64, 8]
        rest = pixel % (images.height * images.width)
        y = (rest // images.width + tap // 3 - 1)[:, None] + shift_y
        x_position = (rest % images.width + tap % 3 - 1)[:, None] + shift_x
        table = x[...].reshape(-1, OFFSET_GROUPS, _CHANNELS).astype(jnp.float32)
        total = 0.0
        for near_y in (jnp.floor(y), jnp.floor(y) + 1):
            for near_x in (jnp.floor(x_position), jnp.floor(x_position) + 1):
                inside = (near_y >= 0) & (near_y < images.height) & (near_x >= 0) & (near_x < images.width)
                weight = (1 - jnp.abs(y - near_y)) * (1 - jnp.abs(x_position - near_x))
                place = jnp.clip(near_y, 0, images.height - 1) * images.width
                place = (place + jnp.clip(near_x, 0, images.width - 1)).astype(jnp.int32)
                place = place + (pixel - rest)[:, None]
                values = table[place, jnp.arange(OFFSET_GROUPS)]
                total += jnp.where(inside, weight, 0.0)[..., None] * values
        total = total * jax.nn.sigmoid(logit)[..., None]
        return reorder(total.reshape(POINTS, CHUNK), 1).astype(dtype)

    def finish(acc, bias, out, point):
        rows = acc + bias[...][None]
        rows = rows if slope is None else jnp.maximum(rows, slope * rows)
        rows = reorder(rows, 1).astype(dtype)

        @pl.loop(0, jnp.minimum(images.count - point, POINTS))
        def _(i):
            out[point + i, :] = lax.dynamic_index_in_dim(rows, i, keepdims=False)

    return sample, finish


# What follows emits the instructions of one lane, as in `ops/mosaic/lane.py`.


def _sample(x, head, tap, place, images, dtype):
    f32 = ir.F32Type.get()
    values = [make_constant(0.0, f32)] * (POINTS * CHUNK // 128)
    for half, pixel in enumerate(place.points):
        rest = arith.remui(pixel, make_constant(images.height * images.width))
        base = arith.subi(pixel, rest)
        near_y = arith.addi(
            arith.divui(rest, make_constant(images.width)), _less_one(arith.divui(tap, make_constant(3)))
        )
        near_x = arith.addi(
            arith.remui(rest, make_constant(images.width)), _less_one(arith.remui(tap, make_constant(3)))
        )
        places = lane.places_of_point(half)
        for block in range(CHUNK // 32):
            group = arith.addi(place.quarter, make_constant(4 * block))
            numbers = _read_head(head, pixel, tap, group)
            mine = places[8 * block :][:8]
            for address, weight in _corners(x, base, near_y, near_x, group, numbers, images):
                element = lane.element_of(x)
                for number, value in zip(mine, lane.load_numbers(address, 8, element), strict=True):
                    values[number] = llvm.intr_fma(arith.extf(f32, value), weight, values[number])
    return lane.as_operand(values, dtype)


def _less_one(x):
    return arith.subi(x, make_constant(1))


def _read_head(head, pixel, tap, group):
    """Returns displacement y, x and logit."""
    element = lane.element_of(head)
    tap_place = arith.addi(times(tap, 3 * OFFSET_GROUPS), group)
    first = lane.address_of(head, lane.as_long(arith.addi(times(pixel, _HEAD), tap_place)))
    loaded = [llvm.load(element, lane.step_pointer(first, OFFSET_GROUPS * n, element)) for n in range(3)]
    return [arith.extf(ir.F32Type.get(), number) for number in loaded]


def _corners(x, base, near_y, near_x, group, numbers, images):
    """Returns four pairs of where a corner's eight channels lie, and its weight with the mask."""
    shift_y, shift_x, logit = numbers
    mask = _sigmoid(logit)
    rows = _axis(near_y, shift_y, images.height)
    columns = _axis(near_x, shift_x, images.width)
    found = []
    for row, weight_y in rows:
        line = arith.addi(base, times(row, images.width))
        masked = arith.mulf(weight_y, mask)
        for column, weight_x in columns:
            first = arith.addi(times(arith.addi(line, column), CHUNK), times(group, _CHANNELS))
            found.append((lane.address_of(x, lane.as_long(first)), arith.mulf(masked, weight_x)))
    return found


def _axis(near, shift, size):
    """Returns (index, weight) of the two neighbours along an axis, zero outside."""
    i32, f32 = ir.IntegerType.get_signless(32), ir.F32Type.get()
    position = arith.addf(arith.sitofp(f32, near), shift)
    lower = llvm.inline_asm(i32, [position], "cvt.rmi.s32.f32 $0, $1;", "=r,f")
    upper_weight = arith.subf(position, arith.sitofp(f32, lower))
    one, zero = make_constant(1.0, f32), make_constant(0.0, f32)
    pairs = []
    for index, weight in (
        (lower, arith.subf(one, upper_weight)),
        (arith.addi(lower, make_constant(1)), upper_weight),
    ):
        is_inside = arith.cmpi(arith.CmpIPredicate.ult, index, make_constant(size))
        index = arith.minsi(arith.maxsi(index, make_constant(0)), make_constant(size - 1))
        pairs.append((index, arith.select(is_inside, weight, zero)))
    return pairs


def _sigmoid(x):
    f32 = ir.F32Type.get()
    power = arith.mulf(x, make_constant(-1.4426950408889634, f32))
    power = llvm.inline_asm(f32, [power], "ex2.approx.f32 $0, $1;", "=f,f")
    total = arith.addf(power, make_constant(1.0, f32))
    return llvm.inline_asm(f32, [total], "rcp.approx.f32 $0, $1;", "=f,f")
