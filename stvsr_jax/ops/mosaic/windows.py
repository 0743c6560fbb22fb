"""Windows of images in a Hopper GPU's shared memory, and products of them (Pallas, Mosaic GPU lowering).

A line of 8 pixels of 64 channels is a tile of the matrix unit, wherever in the window it begins.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir.dialects import nvvm

COLUMNS = 8  # pixels of a window's line
CHUNK = 64  # channels of a product; 128 bytes, the widest pattern in which shared memory is interleaved
SHARED_BYTES = 227 * 1024 - 1024  # of one multiprocessor, without the barriers
INTERLEAVED = plgpu.SwizzleTransform(128)
AS_LINES = (INTERLEAVED,)
# Pallas' own `wgmma` takes no window that does not begin at a tile; so sums go from one `inline_mgpu` to the next.
SUMS = plgpu.Layout._WGMMA_ACC_32BIT


def window_shape(lines: int, size: int) -> tuple[int, int, int]:
    """Return the shape of a window with its margin for taps of so many lines, and lines that only fill up 1024 bytes."""
    lines, columns = lines + size - 1, COLUMNS + size - 1
    while lines * columns * CHUNK % 512:
        lines += 1
    return lines, columns, CHUNK


def describe_sums(shape: tuple[int, int]) -> plgpu.ShapeDtypeStruct:
    """Return the type of sums of products."""
    return plgpu.ShapeDtypeStruct(shape, jnp.float32, layout=SUMS)


def make_start(shape: tuple[int, int]) -> Callable[[], jax.Array]:
    """Return a function that returns sums of nothing."""

    @plgpu.inline_mgpu(return_type=describe_sums(shape))
    def start(context):
        # Pallas numbers kernels as they come, for dumps. Without a number equal kernels are equal: they are compiled
        # once, and a program with them is found in JAX's compilation cache.
        attributes = context.module.operation.attributes
        attributes["mosaic_gpu.dump_basename"] = attributes["sym_name"]
        return mgpu.WGMMAAccumulator.zero(*shape)._value

    return start


def add_product(sums, left, right):
    """Inside of `inline_mgpu`: return the sums with a product of tiles, on which the matrix unit is still at work."""
    sums = mgpu.WGMMAAccumulator(_value=sums, _original_layout=sums.layout, _sync=False)
    sums = mgpu.wgmma(sums, left, right)
    nvvm.wgmma_commit_group_sync_aligned()
    return sums._value
