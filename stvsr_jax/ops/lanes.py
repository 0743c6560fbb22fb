"""Images as the TPU kernels hold them: pixels along the lanes, [C, P], P = B H W pixels of all images, row by row.

A TPU pads the last dimension of an array to 128 lanes: [B, H, W, 64] takes twice its bytes and [B, H, W, 3] 43 times.
"""

from collections.abc import Sequence

import jax


def to_lanes(x: jax.Array) -> jax.Array:
    """Returns [B, H, W, C] as [C, P]."""
    return x.reshape(-1, x.shape[-1]).T


def from_lanes(y: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Returns [C, P] as [B, H, W, C]; `shape` is (B, H, W)."""
    return y.T.reshape(*shape, len(y))
