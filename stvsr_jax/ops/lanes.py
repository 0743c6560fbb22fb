"""Images as the TPU kernels hold them: pixels along the lanes, [C, P], P = B H W pixels of all images, row by row.

A TPU pads the last dimension of an array to 128 lanes: [B, H, W, 64] takes twice its bytes and [B, H, W, 3] 43 times. What a
loop carries keeps the layout that it has in the program; between kernels XLA removes a conversion and its inverse.
"""

import math
from collections.abc import Sequence

import jax

from stvsr_jax.ops.devices import takes_tpu_kernels


def to_lanes(x: jax.Array) -> jax.Array:
    """Returns [B, H, W, C] as [C, P]."""
    return x.reshape(-1, x.shape[-1]).T


def from_lanes(y: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Returns [C, P] as [B, H, W, C]; `shape` is (B, H, W)."""
    return y.T.reshape(*shape, len(y))


def pack(x: jax.Array) -> jax.Array:
    """Returns [.., B, H, W, C] as a loop of this program should carry it: on a TPU [.., C, P]. Smaller arrays stay."""
    if x.ndim < 4 or not takes_tpu_kernels():
        return x
    return x.reshape(*x.shape[:-4], math.prod(x.shape[-4:-1]), x.shape[-1]).swapaxes(-1, -2)


def unpack(y: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Undoes `pack`; `shape` is that of what was packed, or ends like it."""
    if len(shape) < 4 or not takes_tpu_kernels():
        return y
    return y.swapaxes(-1, -2).reshape(*y.shape[:-2], *shape[-4:])
