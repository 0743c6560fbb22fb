"""Bilinear reading on fixed grids, and its transpose, as one Pallas kernel for TPUs.

Pixels lie along the lanes, [C, P], P = B H W. A block of result pixels is a product of what lies around them with a matrix
of weights hat(y - y') hat(x - x'), hat(d) = max(0, 1 - |d|). It is made in VMEM, for 128 read pixels at a time. Lanes
cannot be interleaved otherwise. Zeros of the matrix are multiplied too: what is not finite spreads over its neighbours.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

_LANES = 128
_BLOCKS = (512, 256, 128)  # result pixels
_LARGEST_MATRIX = 2**19  # weights of a block; more only if the smallest block has them
_LARGEST_WIDTH = 2048
_QUARTERS = 4


class Grid(NamedTuple):
    """Result row Y reads row clip((step Y + first) / 4, 0, H - 1), and columns likewise.

    Attributes:
      size: (H, W) of what is read.
      out_size: (H', W') of the result; step H' = 4 H.
      step, first: quarters of a pixel.
      scale: factor of the values.
    """

    size: tuple[int, int]
    out_size: tuple[int, int]
    step: int
    first: int
    scale: float = 1.0


def double(size: tuple[int, int], scale: float = 1.0) -> Grid:
    """Returns the grid that doubles height and width, half-pixel centres, edges clamped."""
    return Grid(size, (2 * size[0], 2 * size[1]), 2, -1, scale)


def halve(size: tuple[int, int]) -> Grid:
    """Returns the grid of every second row and column from the first, of a size that is even."""
    return Grid(size, (size[0] // 2, size[1] // 2), 8, 0)


def is_supported(x: jax.Array) -> bool:
    """Returns whether `run` can read [B, H, W, C]."""
    return x.dtype in (jnp.bfloat16, jnp.float32) and x.shape[-1] % 8 == 0 and x.shape[2] <= _LARGEST_WIDTH


def run(grid: Grid, x: jax.Array, *, is_transposed: bool = False, interpret: bool = False) -> jax.Array:
    """Reads images, or adds cotangents to the pixels that were read.

    Args:
      grid: where.
      x: [C, B H W]; transposed [C, B H' W'].
      is_transposed: return the VJP of the read.
      interpret: run on any device.

    Returns:
      [C, B H' W'], transposed [C, B H W], in the dtype of x.
    """
    read, made = (grid.out_size, grid.size) if is_transposed else (grid.size, grid.out_size)
    pixels = x.shape[1] // (read[0] * read[1]) * made[0] * made[1]
    block, pieces = _split(grid, is_transposed)
    last = pl.cdiv(x.shape[1], _LANES) - 1

    def piece_of(i, piece):
        return _first_piece(grid, is_transposed, block, i) + piece

    return pl.pallas_call(
        functools.partial(_kernel, grid, is_transposed, x.shape[1], piece_of),
        out_shape=jax.ShapeDtypeStruct((len(x), pixels), x.dtype),
        grid=(pl.cdiv(pixels, block), pieces),
        in_specs=[pl.BlockSpec((len(x), _LANES), lambda i, j: (0, jnp.minimum(piece_of(i, j), last)))],
        out_specs=pl.BlockSpec((len(x), block), lambda i, j: (0, i)),
        scratch_shapes=[pltpu.VMEM((len(x), block), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(
            flops=2 * len(x) * pixels * pieces * _LANES,
            bytes_accessed=len(x) * x.dtype.itemsize * pixels * (1 + pieces * _LANES // block),
            transcendentals=0,
        ),
        interpret=interpret,
        name="resample_backward" if is_transposed else "resample",
    )(x)


def _split(grid, is_transposed):
    """Returns pixels of a block and how many times 128 pixels it reads."""
    (width, out_width), step = (grid.size[1], grid.out_size[1]), grid.step
    for block in _BLOCKS:
        rows = (block - 2) // (
            width if is_transposed else out_width
        ) + 1  # from the first to the last pixel's
        if is_transposed:
            span, read_width = -(-_QUARTERS * (rows + 2) // step) + 2, out_width
        else:
            span, read_width = -(-step * rows // _QUARTERS) + 2, width
        pieces = -(-span * read_width // _LANES) + 1
        if pieces * _LANES * block <= _LARGEST_MATRIX:
            break
    return block, pieces


def _first_piece(grid, is_transposed, block, number):
    """Returns which 128 pixels hold the first that a block reads."""
    (height, width), (out_height, out_width) = grid.size, grid.out_size
    if is_transposed:
        row = jax.lax.div(number * block, jnp.int32(width))
        image, y = jax.lax.div(row, jnp.int32(height)), jax.lax.rem(row, jnp.int32(height))
        read = jnp.maximum(jax.lax.div(_QUARTERS * (y - 1) - grid.first, jnp.int32(grid.step)) - 1, 0)
        read = image * out_height + read
        return jax.lax.div(read * out_width, jnp.int32(_LANES))
    row = jax.lax.div(number * block, jnp.int32(out_width))
    image, y = jax.lax.div(row, jnp.int32(out_height)), jax.lax.rem(row, jnp.int32(out_height))
    read = image * height + jax.lax.div(jnp.maximum(grid.step * y + grid.first, 0), jnp.int32(_QUARTERS))
    return jax.lax.div(read * width, jnp.int32(_LANES))


def _kernel(grid, is_transposed, pixels, piece_of, x, out, total):
    @pl.when(pl.program_id(1) == 0)
    def _():
        total[...] = jnp.zeros_like(total)

    block = out.shape[1]
    first = piece_of(pl.program_id(0), pl.program_id(1)) * _LANES
    here = pl.program_id(0) * block + jax.lax.broadcasted_iota(jnp.int32, (1, block), 1)
    read = first + jax.lax.broadcasted_iota(jnp.int32, (_LANES, 1), 0)
    places = (_place_of_read, _place) if is_transposed else (_place, _place_of_read)
    (y, x_), (read_y, read_x) = places[1](grid, here), places[0](grid, read)
    weights = _hat(y - read_y) * _hat(x_ - read_x)
    lane = first + jax.lax.broadcasted_iota(jnp.int32, (1, _LANES), 1)
    # After the last pixel stand any numbers.
    values = jnp.where(lane < pixels, x[...].astype(jnp.float32), 0.0)
    is_finite = jnp.abs(values) < jnp.inf
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None

    def add_up(values, weights):
        values, weights = values.astype(x.dtype), weights.astype(x.dtype)
        return jnp.dot(values, weights, precision=exact, preferred_element_type=jnp.float32)

    total[...] += add_up(jnp.where(is_finite, values, 0.0), weights * jnp.float32(grid.scale))

    @pl.when(jnp.min(is_finite.astype(jnp.float32)) == 0.0)
    def _():
        for value in (jnp.nan, jnp.inf, -jnp.inf):
            is_value = values == value if value == value else values != values
            count = add_up(is_value.astype(jnp.float32), jnp.where(weights > 0.0, 1.0, 0.0))
            total[...] += jnp.where(count > 0.0, jnp.float32(value * grid.scale), 0.0)

    @pl.when(pl.program_id(1) == pl.num_programs(1) - 1)
    def _():
        out[...] = total[...].astype(out.dtype)


def _hat(distance):
    return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


def _place(grid, pixel):
    """Returns row, counted over all images, and column of the pixels of what is read, float32."""
    row = jax.lax.div(pixel, jnp.int32(grid.size[1]))
    return row.astype(jnp.float32), (pixel - row * grid.size[1]).astype(jnp.float32)


def _place_of_read(grid, pixel):
    """Returns where the pixels of the result read, in the coordinates of `_place`."""
    (height, width), (out_height, out_width) = grid.size, grid.out_size
    row = jax.lax.div(pixel, jnp.int32(out_width))
    image = jax.lax.div(row, jnp.int32(out_height))

    def read(number, size):
        quarters = (grid.step * number + grid.first).astype(jnp.float32)
        return jnp.clip(quarters * np.float32(1 / _QUARTERS), 0.0, np.float32(size - 1))

    y = (image * height).astype(jnp.float32) + read(row - image * out_height, height)
    return y, read(pixel - row * out_width, width)
