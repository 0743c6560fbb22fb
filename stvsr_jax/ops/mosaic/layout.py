"""How 64 points lie in the registers of a warpgroup, and their weights in shared memory."""

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

POINTS = 64  # of a block: the rows of one wgmma
WARPS = 4  # of a warpgroup; each has 16 points
NARROW = 16  # channels to which fewer outputs are padded
AS_NARROW_TILES = (plgpu.TilingTransform((8, NARROW)), plgpu.SwizzleTransform(2 * NARROW))


def reorder(x: jax.Array, *axes: int) -> jax.Array:
    """Returns x with its channels along these axes in the order of the registers, or back.

    wgmma gives a lane two of every 8 channels; the four lanes of a point share them. Reordered, a lane has 8 neighbours of
    every 32 channels instead, which it loads and stores at once.
    """
    for axis in axes:
        axis %= x.ndim
        parts = x.reshape(*x.shape[:axis], -1, 4, 4, 2, *x.shape[axis + 1 :])
        x = parts.swapaxes(axis + 1, axis + 2).reshape(x.shape)
    return x
