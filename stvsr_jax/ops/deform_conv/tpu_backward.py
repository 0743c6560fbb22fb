"""The gradients of `tpu.run`, as one kernel: of image, displacements, masks and weights.

The samples are made again. Of one group and 128 pixels, the gradient of the (2 R + 3)^2 shifted copies is summed over all
taps in registers, then shifted back and added to a window in VMEM. Blocks run one after the other; what no later block
reaches is written, one block behind.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stvsr_jax.ops.deform_conv.tpu import (
    CHANNELS,
    FAR,
    GROUPS,
    HEAD_CHANNELS,
    LANES,
    OUTSIDE,
    SHIFTS,
    SPAN,
    TAPS,
    WIDTH,
    Plan,
    block_spec,
    cost,
    distances,
    dot,
    float32,
    lanes_of,
    line_of,
    load_window,
    of_group,
    places_of,
    reach,
    rows_of,
    steps_of,
    weigh,
    whole_spec,
    window_specs,
    write_shifted,
)


def run(
    plan: Plan,
    centre: jax.Array,
    image: jax.Array,
    head: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of `tpu.run`.

    Args:
      plan, centre, image, head, kernel: as there.
      cotangent: [C', P].
      interpret: run on any device.

    Returns:
      Of the image, padded and rolled as it is, in its dtype; of the head in its dtype; of the kernel, float32.
    """
    kernel, cotangent = kernel.astype(image.dtype), cotangent.astype(image.dtype)
    written = image.dtype.itemsize * (CHANNELS + HEAD_CHANNELS)
    return pl.pallas_call(
        functools.partial(_backward, plan),
        out_shape=(
            jax.ShapeDtypeStruct(image.shape, image.dtype),
            jax.ShapeDtypeStruct(head.shape, head.dtype),
            jax.ShapeDtypeStruct(kernel.shape, jnp.float32),
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(plan.count + 2,),  # the gradient of the image comes a block later
            in_specs=[
                *window_specs(plan),
                block_spec(plan, HEAD_CHANNELS),
                whole_spec(kernel.shape),
                block_spec(plan, len(cotangent)),
            ],
            out_specs=(
                pl.BlockSpec((CHANNELS, plan.block), lambda i, _: (0, i)),
                block_spec(plan, HEAD_CHANNELS),
                whole_spec(kernel.shape),
            ),
            scratch_shapes=[
                float32(CHANNELS, plan.block + 2 * plan.halo),
                float32(SPAN, SPAN, WIDTH, LANES),
                float32(SPAN, SPAN, WIDTH, LANES),
                float32(TAPS * 3, GROUPS, LANES),
                float32(2, TAPS, len(SHIFTS), GROUPS, LANES),
                float32(2, TAPS, len(SHIFTS), GROUPS, LANES),
                float32(TAPS, CHANNELS, LANES),
                float32(TAPS, CHANNELS, LANES),
                float32(TAPS * 3, GROUPS, LANES),
                float32(CHANNELS, 2 * plan.block + plan.halo),
            ],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        cost_estimate=cost(plan, image.dtype, [head, kernel, kernel, cotangent], 800, written),
        interpret=interpret,
        name="deform_conv_backward",
    )(centre, image, image, image, head, kernel, cotangent)


def _backward(
    plan, centre, before, here, after, head, kernel, cotangent, d_image, d_head, d_kernel, window, shifted, spread,
    parts, hats, slopes, columns, d_columns, d_parts, d_window,
):  # fmt: skip
    step = pl.program_id(0)
    first = step * plan.block

    @pl.when(step == 0)
    def _():
        d_kernel[...] = jnp.zeros_like(d_kernel)
        d_window[...] = jnp.zeros_like(d_window)

    def write_weights(places, tap):
        for axis in (0, 1):
            for i, (distance, inside) in distances(plan, centre, parts, places, tap, axis):
                hats[axis, tap, i] = jnp.where(inside, jnp.maximum(0.0, 1.0 - jnp.abs(distance)), 0.0)
                # At an integer displacement the slope is that to the right.
                slope = jnp.where(distance < 0.0, 1.0, -1.0)
                near = (distance >= -1.0) & (distance < 1.0)
                slopes[axis, tap, i] = jnp.where(inside & near, slope, 0.0)
        parts[3 * tap + 2] = jax.nn.sigmoid(parts[3 * tap + 2])

    def run_tap(group, tap):
        hats_y, hats_x = (of_group(hats, axis, tap, group) for axis in (0, 1))
        slopes_y, slopes_x = (of_group(slopes, axis, tap, group) for axis in (0, 1))
        mask = parts[3 * tap + 2, pl.ds(group, 1), :]
        lines = [line_of(shifted, tap, i, hats_x) for i in range(len(SHIFTS))]
        sample = weigh(hats_y, lines)
        slope_y = weigh(slopes_y, lines)
        slope_x = weigh(hats_y, [line_of(shifted, tap, i, slopes_x) for i in range(len(SHIFTS))])
        columns[tap, rows_of(group), :] = sample * mask
        d_column = d_columns[tap, rows_of(group), :]
        factors = [(slope_y, mask), (slope_x, mask), (sample, mask * (1.0 - mask))]
        for part, (slope, factor) in enumerate(factors):
            along = jnp.sum(d_column * slope, axis=0, keepdims=True)
            d_parts[3 * tap + part, pl.ds(group, 1), :] = along * factor
        row, column = steps_of(tap)
        d_sample = d_column * mask
        for i, hat_y in enumerate(hats_y):
            d_line = d_sample * hat_y
            for j, hat_x in enumerate(hats_x):
                spread[row + i, column + j] += d_line * hat_x

    def run_group(chunk, group):
        write_shifted(plan, window, shifted, group, chunk)
        spread[...] = jnp.zeros_like(spread)
        _loop(TAPS, lambda tap: run_tap(group, tap))
        for i in range(SPAN):
            start, rest, span = reach(plan, i - FAR)
            wide = sum(_unshift(spread[i, j], rest + j, span) for j in range(SPAN))
            # The scratch begins a whole block before the step's first pixel, the window a halo before.
            start = start + (plan.block - plan.halo) // LANES
            lanes = pl.ds(pl.multiple_of((chunk + start) * LANES, LANES), span)
            d_window[rows_of(group), lanes] += wide

    def run_chunk(chunk):
        lanes = lanes_of(chunk)
        places = places_of(plan, centre, first + chunk * LANES)
        # After the last pixel stand any numbers.
        is_pixel = places[0][:1] > OUTSIDE
        head_here, g = (jnp.where(is_pixel, x[:, lanes].astype(jnp.float32), 0.0) for x in (head, cotangent))
        parts[...] = head_here.reshape(parts.shape)
        g = g.astype(cotangent.dtype)
        _loop(TAPS, lambda tap: write_weights(places, tap))
        d_columns[...] = dot(kernel[...], g).reshape(d_columns.shape)
        _loop(GROUPS, lambda group: run_group(chunk, group))
        d_head[:, lanes] = d_parts[...].reshape(HEAD_CHANNELS, LANES).astype(d_head.dtype)
        d_kernel[...] += dot(columns[...].reshape(-1, LANES).astype(g.dtype), g, ((1,), (1,)))

    @pl.when(step < plan.count)
    def _():
        load_window(plan, window, before, here, after)
        _loop(plan.block // LANES, run_chunk)

    # No later block reaches these pixels.
    block, halo = plan.block, plan.halo
    d_image[...] = d_window[:, :block].astype(d_image.dtype)
    d_window[:, : block + halo] = d_window[:, block:]
    d_window[:, block + halo :] = jnp.zeros((CHANNELS, block), jnp.float32)


def _loop(count, body):
    jax.lax.fori_loop(0, count, lambda i, _: body(i) or 0, 0)


def _unshift(x, by, span):
    """Returns [8, span] with x in the lanes [by, by + 128), zero elsewhere."""
    wide = jnp.concatenate([x, jnp.zeros((len(x), span - LANES), x.dtype)], axis=1)
    return pltpu.roll(wide, by, 1) if by else wide
