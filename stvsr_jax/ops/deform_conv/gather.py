"""Columns of a deformable convolution by gathers, for any device and any displacement."""

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.ops.deform_conv.windowed import Geometry
from stvsr_jax.ops.sampling import sample_groups


def run(x: jax.Array, head: jax.Array, geometry: Geometry, logits: bool) -> jax.Array:
    """Returns the columns.

    Args:
      x: [B, H, W, C].
      head: [B, H', W', K, 3, G].
      geometry: of the taps.
      logits: whether masks are logits.

    Returns:
      [B, H', W', K, C] in the dtype of x.
    """
    values = sample_groups(x.reshape(in_groups(x, head)), coords_of(head, geometry))  # [B, P, K, G, c]
    mask = head[..., 2, :].reshape(values.shape[:-1]).astype(jnp.float32)
    mask = jax.nn.sigmoid(mask) if logits else mask
    values = values * mask[..., None].astype(values.dtype)
    return values.reshape(*head.shape[:4], -1)


def in_groups(x: jax.Array, head: jax.Array) -> tuple[int, ...]:
    """Returns the shape of x with its channels as (G, c)."""
    return (*x.shape[:3], head.shape[-1], x.shape[-1] // head.shape[-1])


def coords_of(head: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns where is sampled, [B, P, K, G, 2] (y, x) in pixels of x, float32; P = H' W'."""
    batch, *out_size, taps, _, groups = head.shape
    displacement = head[..., :2, :].reshape(batch, -1, taps, 2, groups).astype(jnp.float32)
    return jnp.moveaxis(displacement, 3, 4) + _tap_positions(out_size, geometry).reshape(-1, taps, 1, 2)


def _tap_positions(out_size, geometry):
    """Returns [H', W', K, 2] float32: where each tap falls without offset, (y, x) in pixels of x."""
    axes = []
    stride, dilation, padding, kernel_size = geometry
    for n, k, s, d, p in zip(out_size, kernel_size, stride, dilation, padding, strict=True):
        axes.append(np.arange(n)[:, None] * s - p + np.arange(k)[None, :] * d)  # [n, k]
    y = axes[0][:, None, :, None]  # [H', 1, kh, 1]
    x = axes[1][None, :, None, :]  # [1, W', 1, kw]
    grid = np.stack(np.broadcast_arrays(y, x), axis=-1).astype(np.float32)
    return grid.reshape(*out_size, kernel_size[0] * kernel_size[1], 2)
