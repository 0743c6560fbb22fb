"""The 3x3 deformable convolution as Pallas kernels for TPUs: sampling, modulation and product in one.

Pixels lie along the lanes, channels along the sublanes: arrays are [C, P], P = B H W pixels of all images, row by row.
So nothing is padded to 128 lanes, whatever the size of the images, and the eight channels of an offset group are one
register. A sample is a sum over a window of (2 R + 1)^2 shifted copies of the image in VMEM,

    sum over i, j in -R ... R of hat(y - i) hat(x - j) image[p + tap + (i, j)],   hat(d) = max(0, 1 - |d|),

which is bilinear sampling exactly while -R <= displacement < R. The hat functions at all integers add up to one, so
a larger displacement is read from several windows, with centres (2 R + 1) pixels apart. The sum over them is exact for
every displacement, in the memory of one window; `tpu_windows` makes it where it is needed.

Weights of zero are multiplied, not selected, which would double the vector work: a pixel that is not finite makes all results
so that have it in the window of a tap, 3 rows and columns around it, also over the end of a row and in the next image.

A block of pixels is read with a halo of H lanes on both sides, wide enough for a tap and a shift. The image therefore
comes padded: `pad` puts one block before and one after it. What a pixel reads outside of its own image has weight zero.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

REACH = 2  # R
SHIFTS = range(-REACH, REACH + 1)
TAPS = 9
GROUPS = 8  # offset groups: the sublanes of a register of the head
WIDTH = 8  # channels of a group: the sublanes of a register of the image
CHANNELS = GROUPS * WIDTH
HEAD_CHANNELS = TAPS * 3 * GROUPS
LANES = 128

FAR = REACH + 1  # of a tap and a shift together
SPAN = 2 * FAR + 1
_BLOCK = 1024  # pixels, about


class Plan(NamedTuple):
    """How P pixels of images of a size (H, W) are split: `count` blocks of `block` lanes, with `halo` lanes around."""

    size: tuple[int, int]
    pixels: int
    halo: int
    block: int
    count: int

    @classmethod
    def of(cls, pixels: int, size: tuple[int, int]) -> "Plan":
        """Returns the plan for so many pixels."""
        halo = _round_up(FAR * size[1] + FAR, LANES)
        count = pl.cdiv(pixels, halo * max(1, _BLOCK // halo))
        block = _round_up(pl.cdiv(pixels, count), halo)
        return cls(size, pixels, halo, block, pl.cdiv(pixels, block))

    @property
    def padded(self) -> int:
        """Lanes of the padded image."""
        return (self.count + 2) * self.block


def _round_up(value, multiple):
    return -(-value // multiple) * multiple


def pad(plan: Plan, image: jax.Array) -> jax.Array:
    """Returns the image [C, P] with a block of zeros before and at least one after it."""
    return jnp.pad(image, ((0, 0), (plan.block, plan.padded - plan.block - plan.pixels)))


def unpad(plan: Plan, image: jax.Array) -> jax.Array:
    """Undoes `pad`."""
    return image[:, plan.block : plan.block + plan.pixels]


def roll(plan: Plan, image: jax.Array, by: jax.Array, *, interpret: bool = False) -> jax.Array:
    """Returns `jnp.roll(image, by, axis=1)` of a padded image; XLA takes ten times as long to compile that."""
    blocks = plan.count + 2
    start = jnp.mod(-by, plan.padded)  # what the first lane reads
    places = jnp.stack([start // plan.block, start % plan.block])

    def body(places, first, second, out):
        wide = jnp.concatenate([first[...], second[...]], axis=1).astype(jnp.float32)
        rolled = pltpu.roll(wide, jnp.mod(2 * plan.block - places[1], 2 * plan.block), 1)
        out[...] = rolled[:, : plan.block].astype(out.dtype)

    def block_after(step):
        return pl.BlockSpec(
            (WIDTH, plan.block), lambda i, group, places: (group, jax.lax.rem(i + step + places[0], blocks))
        )

    return pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct(image.shape, image.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(blocks, GROUPS),
            in_specs=[block_after(0), block_after(1)],
            out_specs=pl.BlockSpec((WIDTH, plan.block), lambda i, group, _: (group, i)),
        ),
        interpret=interpret,
        name="roll",
    )(places, image, image)


def run(
    plan: Plan,
    centre: jax.Array,
    image: jax.Array,
    head: jax.Array,
    kernel: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Returns the product of the samples of one window with the kernel.

    Args:
      plan: of the pixels.
      centre: [2] int32, (y, x) of the window.
      image: [C, lanes] from `pad`, so rolled that what belongs at p + centre stands at p.
      head: [27 G, P]: tap, then displacement y, displacement x, logit, then group.
      kernel: [9 C, C'].
      interpret: run on any device.

    Returns:
      [C', P] in the dtype of the image.
    """
    turned = kernel.T.astype(image.dtype)
    return pl.pallas_call(
        functools.partial(_forward, plan),
        out_shape=jax.ShapeDtypeStruct((len(turned), plan.pixels), image.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(plan.count,),
            in_specs=[*window_specs(plan), block_spec(plan, HEAD_CHANNELS), whole_spec(turned.shape)],
            out_specs=block_spec(plan, len(turned)),
            scratch_shapes=[
                float32(CHANNELS, plan.block + 2 * plan.halo),
                float32(SPAN, SPAN, WIDTH, LANES),
                float32(TAPS * 3, GROUPS, LANES),
                float32(2, TAPS, len(SHIFTS), GROUPS, LANES),
                float32(TAPS, CHANNELS, LANES),
            ],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=cost(plan, image.dtype, [head, turned], 270, len(turned) * image.dtype.itemsize),
        interpret=interpret,
        name="deform_conv",
    )(centre, image, image, image, head, turned)


def float32(*shape):
    return pltpu.VMEM(shape, jnp.float32)


def cost(plan, dtype, operands, products, written):
    """What XLA is told: all memory traffic, halos included; `products` of each pixel and channel besides matrices'."""
    image = CHANNELS * plan.count * (plan.block + 2 * plan.halo) * jnp.dtype(dtype).itemsize
    read = image + sum(x.size * x.dtype.itemsize for x in operands)
    matrices = sum(x.size for x in operands if len(x) != HEAD_CHANNELS and x.shape[1] != plan.pixels)
    return pl.CostEstimate(
        flops=2 * plan.pixels * (matrices + products * CHANNELS),
        bytes_accessed=read + plan.pixels * written,
        transcendentals=plan.pixels * TAPS * GROUPS,
    )


def block_spec(plan, channels):
    return pl.BlockSpec((channels, plan.block), lambda i, _: (0, jnp.minimum(i, plan.count - 1)))


def whole_spec(shape):
    return pl.BlockSpec(shape, lambda i, _: (0, 0))


def window_specs(plan):
    """Specs of a block of the padded image and of the halos before and after it."""
    per_block = plan.block // plan.halo

    def at(i):
        return jnp.minimum(i, plan.count - 1) + 1

    return [
        pl.BlockSpec((CHANNELS, plan.halo), lambda i, _: (0, at(i) * per_block - 1)),
        pl.BlockSpec((CHANNELS, plan.block), lambda i, _: (0, at(i))),
        pl.BlockSpec((CHANNELS, plan.halo), lambda i, _: (0, (at(i) + 1) * per_block)),
    ]


def _forward(plan, centre, before, here, after, head, kernel, out, window, shifted, parts, hats, columns):
    load_window(plan, window, before, here, after)
    first = pl.program_id(0) * plan.block

    def run_chunk(chunk, _):
        lanes = lanes_of(chunk)
        places = places_of(plan, centre, first + chunk * LANES)
        parts[...] = head[:, lanes].astype(jnp.float32).reshape(parts.shape)

        def write_hats(tap, _):
            mask = jax.nn.sigmoid(parts[3 * tap + 2])
            for axis in (0, 1):
                for i, (distance, inside) in distances(plan, centre, parts, places, tap, axis):
                    hat = jnp.maximum(0.0, 1.0 - jnp.abs(distance))
                    hats[axis, tap, i] = jnp.where(inside, hat if axis else hat * mask, 0.0)
            return 0

        def run_group(group, _):
            write_shifted(plan, window, shifted, group, chunk)

            def run_tap(tap, _):
                hats_y, hats_x = (of_group(hats, axis, tap, group) for axis in (0, 1))
                lines = [line_of(shifted, tap, i, hats_x) for i in range(len(SHIFTS))]
                columns[tap, rows_of(group), :] = weigh(hats_y, lines)
                return 0

            return jax.lax.fori_loop(0, TAPS, run_tap, 0)

        jax.lax.fori_loop(0, TAPS, write_hats, 0)
        jax.lax.fori_loop(0, GROUPS, run_group, 0)
        samples = columns[...].reshape(-1, LANES).astype(kernel.dtype)
        out[:, lanes] = dot(kernel[...], samples).astype(out.dtype)
        return 0

    jax.lax.fori_loop(0, plan.block // LANES, run_chunk, 0)


OUTSIDE = -(2**24)  # rows of what is no pixel are at or below it


def lanes_of(chunk: jax.Array) -> pl.Slice:
    """Returns where a chunk of 128 pixels stands in a block."""
    return pl.ds(pl.multiple_of(chunk * LANES, LANES), LANES)


def rows_of(group: jax.Array) -> pl.Slice:
    """Returns where a group's channels stand in an image."""
    return pl.ds(pl.multiple_of(group * WIDTH, WIDTH), WIDTH)


def dot(a, b, contract=((1,), (0,))):
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (contract, ((), ())), precision=exact, preferred_element_type=jnp.float32
    )


def load_window(plan, window, before, here, after):
    halo, block = plan.halo, plan.block
    window[:, :halo] = before[...].astype(jnp.float32)
    window[:, halo : halo + block] = here[...].astype(jnp.float32)
    window[:, halo + block :] = after[...].astype(jnp.float32)


def places_of(plan, centre, first):
    """Returns row and column of the window's centre for each of 128 pixels, [8, 128] each, int32."""
    height, width = plan.size
    pixel = first + jax.lax.broadcasted_iota(jnp.int32, (GROUPS, LANES), 1)
    row = jax.lax.div(pixel, jnp.int32(width))
    place = jax.lax.rem(row, jnp.int32(height)) + centre[0], pixel - row * width + centre[1]
    return jnp.where(pixel < plan.pixels, place[0], 2 * OUTSIDE), place[1]


def distances(
    plan: Plan, centre: Any, parts: Any, places: tuple[jax.Array, jax.Array], tap: jax.Array, axis: int
) -> Iterator[tuple[int, tuple[jax.Array, jax.Array]]]:
    """Yields for each shift its number, how far the displacement is from it, and whether a pixel is there."""
    displacement = parts[3 * tap + axis] - centre[axis].astype(jnp.float32)
    step = steps_of(tap)[axis] - 1
    for i, shift in enumerate(SHIFTS):
        place = places[axis] + (step + shift)
        yield i, (displacement - shift, (place >= 0) & (place < plan.size[axis]))


def steps_of(tap: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns row and column of a tap, 0 to 2 each."""
    row = jax.lax.div(tap, jnp.int32(3))
    return row, tap - 3 * row


def reach(plan: Plan, step: int) -> tuple[int, int, int]:
    """Returns where in the window the row `step` below a chunk starts, in registers and lanes, and how wide it is."""
    start, rest = divmod(plan.halo + step * plan.size[1] - FAR, LANES)
    return start, rest, _round_up(rest + SPAN - 1 + LANES, LANES)


def write_shifted(plan: Plan, window: Any, shifted: Any, group: jax.Array, chunk: jax.Array) -> None:
    """Writes the group's pixels at all tap + shift to [y, x, 8, 128]."""
    for number in range(SPAN):
        start, rest, span = reach(plan, number - FAR)
        wide = window[rows_of(group), pl.ds(pl.multiple_of((chunk + start) * LANES, LANES), span)]
        for i in range(SPAN):
            by = rest + i
            shifted[number, i] = (pltpu.roll(wide, span - by, 1) if by else wide)[:, :LANES]


def of_group(weights: Any, axis: int, tap: jax.Array, group: jax.Array) -> list[jax.Array]:
    """Returns a group's weights of all shifts, [1, 128] each."""
    return [weights[axis, tap, i, pl.ds(group, 1), :] for i in range(len(SHIFTS))]


def line_of(shifted: Any, tap: jax.Array, i: int, weights_x: list[jax.Array]) -> jax.Array:
    """Returns the weighted sum along x at the shift number i along y, [8, 128]."""
    row, column = steps_of(tap)
    return weigh(weights_x, [shifted[row + i, column + j] for j in range(len(SHIFTS))])


def weigh(weights: list[jax.Array], values: list[jax.Array]) -> jax.Array:
    """Returns the sum of the products."""
    return sum(w * x for w, x in zip(weights, values, strict=True))
