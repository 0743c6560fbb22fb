"""Samples of the deformable convolution, and their backward, for CUDA GPUs (Pallas, Triton lowering).

A program makes one tap of a block of output pixels. A row of values is one pixel, tap and offset group. With the networks'
8 channels in 16 bits, each of its four corners is one 16-byte load. Coordinates and weights are broadcast along the
channels of a row. Triton puts a row into one thread, so they are computed once and need no shuffles.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stvsr_jax.ops.deform_conv.windowed import Geometry

_BLOCK = 32  # output pixels of a program


def is_supported(x: jax.Array, head: jax.Array) -> bool:
    """Returns whether a GPU can run the kernels, for all images at once or one by one."""
    sides = (head.shape[-1], x.shape[-1] // head.shape[-1])
    return (
        x.dtype in (jnp.bfloat16, jnp.float16)
        and all(side & (side - 1) == 0 for side in sides)
        and is_indexable(x[:1], head[:1])
    )


def is_indexable(x: jax.Array, head: jax.Array) -> bool:
    """Returns whether 32-bit indices suffice for all images at once."""
    return max(x.size, head.size, math.prod(head.shape[:4]) * x.shape[-1]) < 2**31


def run(
    x: jax.Array, head: jax.Array, geometry: Geometry, *, logits: bool, interpret: bool = False
) -> jax.Array:
    """Runs the kernel.

    Args:
      x: [B, H, W, C].
      head: [B, H', W', K, 3, G], displacement y, x and mask.
      geometry: of the convolution.
      logits: whether the masks go through a sigmoid first.
      interpret: run anywhere, slowly, for tests.

    Returns:
      [B, H', W', K, C] in the dtype of x.
    """
    shape, problem = (*head.shape[:4], x.shape[-1]), _problem(x, head, geometry, logits)
    call = pl.pallas_call(
        functools.partial(_forward_kernel, problem=problem),
        out_shape=jax.ShapeDtypeStruct((math.prod(shape),), x.dtype),
        name="deform_conv",
        interpret=interpret,
        **_launch(problem),
    )
    return call(x.reshape(-1), head.reshape(-1)).reshape(shape)


def run_backward(
    x: jax.Array,
    head: jax.Array,
    cotangent: jax.Array,
    geometry: Geometry,
    *,
    logits: bool,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Runs the backward kernel; the scatter-add over pixels is left to XLA.

    Args:
      x, head, geometry, logits, interpret: as of `run`.
      cotangent: [B, H', W', K, C], the dtype of x.

    Returns:
      The gradients w.r.t. the samples before the mask, [B, H', W', K, C], and w.r.t. the head, in the dtypes of x and head.
    """
    problem = _problem(x, head, geometry, logits)
    call = pl.pallas_call(
        functools.partial(_backward_kernel, problem=problem),
        out_shape=tuple(jax.ShapeDtypeStruct((a.size,), a.dtype) for a in (cotangent, head)),
        name="deform_conv_backward",
        interpret=interpret,
        **_launch(problem),
    )
    d_samples, d_head = call(x.reshape(-1), head.reshape(-1), cotangent.reshape(-1))
    return d_samples.reshape(cotangent.shape), d_head.reshape(head.shape)


class _Problem(NamedTuple):
    """Sizes and options known when the kernel is compiled."""

    size: tuple[int, int]
    out_size: tuple[int, int]
    pixels: int
    groups: int
    channels: int
    geometry: Geometry
    logits: bool


def _problem(x, head, geometry, logits):
    pixels = math.prod(head.shape[:3])
    return _Problem(x.shape[1:3], head.shape[1:3], pixels, head.shape[-1], x.shape[-1], geometry, logits)


def _launch(problem):
    return dict(
        grid=(pl.cdiv(problem.pixels, _BLOCK), _count_taps(problem)),
        compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=2),
    )


def _forward_kernel(x_ref, head_ref, column_ref, *, problem):
    """Makes the rows (output pixel, group) of a block for one tap; all of a row sits in one thread."""
    p, tap = problem, pl.program_id(1)
    rows = _rows(p)
    read = _read_tap(x_ref, head_ref, rows, tap, p)
    sample = jnp.zeros(rows.image.shape, jnp.float32)
    for corner in read.corners:
        sample += corner.value * (corner.weight * read.mask)
    plgpu.store(column_ref.at[_column_index(rows, tap, p)], sample.astype(column_ref.dtype))


def _backward_kernel(x_ref, head_ref, d_column_ref, d_sample_ref, d_head_ref, *, problem):
    """Makes the gradients of the same rows."""
    p, tap = problem, pl.program_id(1)
    rows = _rows(p)
    read = _read_tap(x_ref, head_ref, rows, tap, p)
    at = _column_index(rows, tap, p)
    d_column = plgpu.load(d_column_ref.at[at]).astype(jnp.float32)
    d_sample = d_column * read.mask
    sample = along_y = along_x = jnp.zeros(rows.image.shape, jnp.float32)
    for corner in read.corners:
        sample += corner.value * corner.weight
        along_y += corner.value * corner.slope_y
        along_x += corner.value * corner.slope_x
    d_mask = d_column * sample
    if p.logits:
        d_mask *= read.mask * (1.0 - read.mask)
    for number, product in enumerate((d_sample * along_y, d_sample * along_x, d_mask)):
        gradient = jnp.sum(product, axis=1)[:, None]
        plgpu.store(d_head_ref.at[_head_index(rows, tap, number, p)], gradient.astype(d_head_ref.dtype))
    plgpu.store(d_sample_ref.at[at], d_sample.astype(d_sample_ref.dtype))


class _Rows(NamedTuple):
    """What the rows (output pixel, group) of a program are: [rows, 1] or, with the channels, [rows, c]."""

    pixel: jax.Array  # of all images
    position: jax.Array  # in its image
    group: jax.Array
    channel: jax.Array  # [rows, c]
    image: jax.Array  # [rows, c], where the channel's first pixel stands


def _rows(p):
    """Returns the rows of this program's block; the last pixel fills up the last block, made several times."""
    row, group = divide(jnp.arange(_BLOCK * p.groups, dtype=jnp.int32)[:, None], p.groups)
    pixel = jnp.minimum(pl.program_id(0) * _BLOCK + row, p.pixels - 1)
    each = p.channels // p.groups
    image, position = divide(pixel, math.prod(p.out_size))
    channel = group * each + jnp.arange(each, dtype=jnp.int32)[None, :]
    return _Rows(pixel, position, group, channel, image * (math.prod(p.size) * p.channels) + channel)


class _Tap(NamedTuple):
    """What the rows of a program read for one tap: the mask's factor [rows, c] and four corners."""

    mask: jax.Array
    corners: list["_Corner"]


class _Corner(NamedTuple):
    """One of the four pixels around, all [rows, c] float32: value, weight and the weight's derivatives."""

    value: jax.Array
    weight: jax.Array
    slope_y: jax.Array
    slope_x: jax.Array


def _read_tap(x_ref, head_ref, rows, tap, p):
    offset_y, offset_x, mask = (
        jnp.broadcast_to(
            plgpu.load(head_ref.at[_head_index(rows, tap, number, p)]).astype(jnp.float32), rows.image.shape
        )
        for number in range(3)
    )
    if p.logits:
        mask = 1.0 / (1.0 + jnp.exp(-mask))
    start = _tap_position(rows.position, tap, p)
    corners = []
    for index, *weights in _corners(start[0] + offset_y, start[1] + offset_x, p.size):
        value = plgpu.load(x_ref.at[rows.image + index * p.channels]).astype(jnp.float32)
        corners.append(_Corner(value, *weights))
    return _Tap(mask, corners)


def _column_index(rows, tap, p):
    """Returns where the samples of the rows stand."""
    return (rows.pixel * _count_taps(p) + tap) * p.channels + rows.channel


def _head_index(rows, tap, number, p):
    """Returns where displacement y (0), displacement x (1) or mask (2) of the rows stands."""
    return ((rows.pixel * _count_taps(p) + tap) * 3 + number) * p.groups + rows.group


def _count_taps(p):
    return math.prod(p.geometry.kernel_size)


def divide(dividend, divisor):
    """Returns quotient and remainder of integers that are not negative."""
    divisor = jnp.full_like(dividend, divisor)
    return jax.lax.div(dividend, divisor), jax.lax.rem(dividend, divisor)


def _tap_position(position, tap, p):
    """Returns (y, x) of a tap without displacement, float32, from the output position y * W' + x."""
    stride, dilation, padding, kernel_size = p.geometry
    places = zip(divide(position, p.out_size[1]), divide(tap, kernel_size[1]), strict=True)
    return [
        (n * stride[axis] - padding[axis] + k * dilation[axis]).astype(jnp.float32)
        for axis, (n, k) in enumerate(places)
    ]


def _corners(y, x, size):
    """Returns (pixel index in the image, weight, its derivatives by y and x) of the four pixels around; outside: zero."""
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
            weight_y, slope_y = (part_y, 1.0) if step_y else (1.0 - part_y, -1.0)
            weight_x, slope_x = (part_x, 1.0) if step_x else (1.0 - part_x, -1.0)
            weights = (weight_y * weight_x, slope_y * weight_x, slope_x * weight_y)
            corners.append((row * size[1] + column, *(jnp.where(inside, w, 0.0) for w in weights)))
    return corners
