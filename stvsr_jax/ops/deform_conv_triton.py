"""The GPU back end of the deformable convolution (Pallas, Triton lowering): nothing between input and output is stored.

A program makes a block of output pixels, tap by tap. One row of values is one pixel, tap and group: its four corners
are 16-byte reads for the networks' 8 channels, and the samples of a tap go straight into the matrix product with that
tap's kernel. Coordinates and weights are repeated along the channels of a row: all of them sit in one thread, which
computes them once, and no value has to change threads.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

_BLOCK = 32  # output pixels of a program
_NARROWEST = 16  # the matrix units' smallest side


class Geometry(NamedTuple):
    """Stride, dilation and padding, each (y, x), and the kernel's size."""

    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    kernel_size: tuple[int, int]


def is_supported(x: jax.Array, head: jax.Array, kernel: jax.Array) -> bool:
    """Return whether a GPU can run the kernel for these arguments."""
    groups, (channels, features) = head.shape[-1], kernel.shape[2:]
    sides = (groups, channels // groups, channels, features)
    return (
        x.dtype in (jnp.bfloat16, jnp.float16)
        and min(channels, features) >= _NARROWEST
        and all(side & (side - 1) == 0 for side in sides)
        and max(x.size, head.size, math.prod(head.shape[:3]) * features) < 2**31  # indices are int32
    )


def run(
    x: jax.Array,
    head: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    geometry: Geometry,
    *,
    logits: bool,
    interpret: bool = False,
) -> jax.Array:
    """Run the kernel.

    Args:
      x: [B, H, W, C].
      head: [B, H', W', K, 3, G], displacement y, x and mask.
      kernel: [kh, kw, C, C'], the dtype of x.
      bias: [C'].
      geometry: of the convolution.
      logits: whether the masks go through a sigmoid first.
      interpret: run anywhere, slowly, for tests.

    Returns:
      [B, H', W', C'] in the dtype of x.
    """
    features, pixels = kernel.shape[-1], math.prod(head.shape[:3])
    problem = _Problem(x.shape[1:3], head.shape[1:3], pixels, head.shape[-1], x.shape[-1], geometry, logits)
    call = pl.pallas_call(
        functools.partial(_kernel, problem=problem),
        out_shape=jax.ShapeDtypeStruct((pixels * features,), x.dtype),
        grid=(pl.cdiv(pixels, _BLOCK),),
        compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=2),
        interpret=interpret,
        name="deform_conv",
    )
    kernel = kernel.reshape(-1, *kernel.shape[2:])
    y = call(x.reshape(-1), head.reshape(-1), kernel, bias.astype(jnp.float32))
    return y.reshape(*head.shape[:3], features)


class _Problem(NamedTuple):
    """Sizes and options known when the kernel is compiled."""

    size: tuple[int, int]
    out_size: tuple[int, int]
    pixels: int
    groups: int
    channels: int
    geometry: Geometry
    logits: bool


def _kernel(x_ref, head_ref, kernel_ref, bias_ref, out_ref, *, problem):
    p = problem
    features, each = kernel_ref.shape[2], p.channels // p.groups
    row, group = _divide(jnp.arange(_BLOCK * p.groups, dtype=jnp.int32)[:, None], p.groups)  # [rows, 1]
    pixel = _pixel(row, p)
    image, position = _divide(pixel, math.prod(p.out_size))
    image = (
        image * (math.prod(p.size) * p.channels) + group * each + jnp.arange(each, dtype=jnp.int32)[None, :]
    )
    taps = math.prod(p.geometry.kernel_size)

    def add_tap(tap, total):
        at = (pixel * taps + tap) * (3 * p.groups) + group
        offset_y, offset_x, mask = (
            jnp.broadcast_to(plgpu.load(head_ref.at[at + i * p.groups]).astype(jnp.float32), image.shape)
            for i in range(3)
        )
        if p.logits:
            mask = 1.0 / (1.0 + jnp.exp(-mask))
        start = _tap_position(position, tap, p)
        sample = jnp.zeros(image.shape, jnp.float32)
        for index, weight in _corners(start[0] + offset_y, start[1] + offset_x, p.size):
            value = plgpu.load(x_ref.at[image + index * p.channels])
            sample += value.astype(jnp.float32) * (weight * mask)
        column = sample.astype(x_ref.dtype).reshape(_BLOCK, p.channels)
        return total + plgpu.dot(column, plgpu.load(kernel_ref.at[tap, :, :]))

    total = jnp.zeros((_BLOCK, features), jnp.float32) + plgpu.load(bias_ref.at[:])[None, :]
    total = jax.lax.fori_loop(0, taps, add_tap, total)
    pixel = _pixel(jnp.arange(_BLOCK, dtype=jnp.int32)[:, None], p)
    at = pixel * features + jnp.arange(features, dtype=jnp.int32)[None, :]
    plgpu.store(out_ref.at[at], total.astype(out_ref.dtype))


def _pixel(row, p):
    """Return which output pixel a row of the block is; the last one, made several times, fills up the last block."""
    return jnp.minimum(pl.program_id(0) * _BLOCK + row, p.pixels - 1)


def _divide(dividend, divisor):
    """Return quotient and remainder of integers that are not negative."""
    divisor = jnp.full_like(dividend, divisor)
    return jax.lax.div(dividend, divisor), jax.lax.rem(dividend, divisor)


def _tap_position(position, tap, p):
    """Return (y, x) of a tap without displacement, float32, from the output position y * W' + x."""
    stride, dilation, padding, kernel_size = p.geometry
    places = zip(_divide(position, p.out_size[1]), _divide(tap, kernel_size[1]), strict=True)
    return [
        (n * stride[axis] - padding[axis] + k * dilation[axis]).astype(jnp.float32)
        for axis, (n, k) in enumerate(places)
    ]


def _corners(y, x, size):
    """Return (pixel index in the image, weight) of the four pixels around; zero weight outside."""
    floor_y, floor_x = jnp.floor(y), jnp.floor(x)
    part_y, part_x = y - floor_y, x - floor_x
    # Far-away or non-finite coordinates must not overflow the integers.
    low_y = jnp.minimum(jnp.maximum(floor_y, -2.0), size[0] + 1.0).astype(jnp.int32)
    low_x = jnp.minimum(jnp.maximum(floor_x, -2.0), size[1] + 1.0).astype(jnp.int32)
    corners = []
    for step_y in (0, 1):
        for step_x in (0, 1):
            row, column = low_y + step_y, low_x + step_x
            inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
            row = jnp.minimum(jnp.maximum(row, 0), size[0] - 1)
            column = jnp.minimum(jnp.maximum(column, 0), size[1] - 1)
            weight = (part_y if step_y else 1.0 - part_y) * (part_x if step_x else 1.0 - part_x)
            corners.append((row * size[1] + column, jnp.where(inside, weight, 0.0)))
    return corners
