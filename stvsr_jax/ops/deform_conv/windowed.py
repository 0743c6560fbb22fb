"""Deformable convolution without gathers, for small displacements: the back end for TPUs.

A sample is a weighted sum of the (2 R + 1)^2 pixels around its tap. The weights along each axis are
max(0, 1 - |distance|). If -R <= displacement < R, this equals bilinear sampling. Every term is a shifted copy of the image
times weights. That is K ((2 R + 1)^2 + 2 R + 1) multiply-adds per output pixel and input channel, 270 for 3x3 taps and
R = 2, in the place of 4 K gathered rows. The caller checks the condition (`fits`) and falls back to gathers.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

REACH = 2  # R


class Geometry(NamedTuple):
    """Stride, dilation and padding, each (y, x), and the kernel's size."""

    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    kernel_size: tuple[int, int]


def fits(head: jax.Array) -> jax.Array:
    """Returns whether all displacements of a head [B, H', W', K, 3, G] are within the window."""
    offset = head[..., :2, :]
    return jnp.all((offset >= -REACH) & (offset < REACH))


def run(x: jax.Array, head: jax.Array, geometry: Geometry, *, logits: bool) -> jax.Array:
    """Returns the columns, if `fits(head)`.

    Args:
      x: [B, H, W, C].
      head: [B, H', W', K, 3, G], displacement y, x and mask.
      geometry: of the convolution.
      logits: whether the masks are sigmoids of the head's.

    Returns:
      [B, H', W', K, C] in the dtype of x, modulated.
    """
    batch, *size, channels = x.shape
    out_size, groups = head.shape[1:3], head.shape[-1]
    image = x.reshape(batch, *size, groups, channels // groups).astype(jnp.float32)
    # Output n, tap k and shift s read pixel n * stride - padding + k * dilation + s, found here at + padding + R.
    spans = [(n - 1) * stride + 1 + 2 * REACH for n, stride in zip(out_size, geometry.stride, strict=True)]
    reaches = [
        span + (k - 1) * dilation
        for span, k, dilation in zip(spans, geometry.kernel_size, geometry.dilation, strict=True)
    ]
    pads = [
        (padding + REACH, max(0, reach - n - padding - REACH))
        for padding, reach, n in zip(geometry.padding, reaches, size, strict=True)
    ]
    image = jnp.pad(image, ((0, 0), *pads, (0, 0), (0, 0)))

    # Rematerialised: the backward pass would keep 25 weighted copies of the image for each tap.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def read_tap(_, inputs):
        tap, head = inputs  # head [B, H', W', 3, G]
        offset_y, offset_x, mask = jnp.moveaxis(head.astype(jnp.float32), 3, 0)
        mask = jax.nn.sigmoid(mask) if logits else mask
        start = [
            k * d for k, d in zip(jnp.divmod(tap, geometry.kernel_size[1]), geometry.dilation, strict=True)
        ]
        window = jax.lax.dynamic_slice(image, (0, *start, 0, 0), (batch, *spans, groups, channels // groups))
        weights_x = _weights(offset_x)
        sample = 0.0
        for step_y, weight_y in enumerate(_weights(offset_y)):
            rows = window[:, step_y :: geometry.stride[0]][:, : out_size[0]]
            line = 0.0
            for step_x, weight_x in enumerate(weights_x):
                line += weight_x * rows[:, :, step_x :: geometry.stride[1]][:, :, : out_size[1]]
            sample += weight_y * line
        return None, (sample * mask[..., None]).astype(x.dtype).reshape(batch, *out_size, channels)

    inputs = jnp.arange(math.prod(geometry.kernel_size)), jnp.moveaxis(head, 3, 0)
    _, columns = jax.lax.scan(read_tap, None, inputs)
    return jnp.moveaxis(columns, 0, 3)


def _weights(offset):
    """Returns the weights [B, H', W', G, 1] of the pixels at -R ... R, with the gradient of `bilinear_sample`."""
    floor = jax.lax.stop_gradient(jnp.floor(offset))
    part = offset - floor
    return [
        jnp.where(floor == shift, 1.0 - part, jnp.where(floor == shift - 1, part, 0.0))[..., None]
        for shift in range(-REACH, REACH + 1)
    ]
