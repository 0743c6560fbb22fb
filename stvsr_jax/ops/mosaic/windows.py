"""Windows of images in the shared memory of a Hopper GPU.

A line of 8 pixels of 64 channels is 8 rows of 128 bytes: one swizzle atom of wgmma, wherever in the window it begins.
"""

from jax.experimental.pallas import mosaic_gpu as plgpu

LINES, COLUMNS = 8, 8  # pixels of a window
PIXELS = LINES * COLUMNS
CHUNK = 64  # channels of one wgmma: 128 bytes, the widest swizzle
SMEM_BYTES = 227 * 1024 - 1024  # of an SM, less what the barriers take

_SWIZZLE = plgpu.SwizzleTransform(128)
AS_LINES = (_SWIZZLE,)  # [.., lines, columns, 64]: pixels as TMA copies them
AS_TILES = (plgpu.TilingTransform((8, CHUNK)), _SWIZZLE)  # [.., rows, 64]: operands of wgmma


def window_shape(lines: int, size: int) -> tuple[int, int, int]:
    """Returns the shape of a window with its margin for kernels of `size` lines.

    More lines at the end fill up a multiple of 1024 bytes: the swizzle repeats after so many.
    """
    lines, columns = lines + size - 1, COLUMNS + size - 1
    while lines * columns * CHUNK % 512:
        lines += 1
    return lines, columns, CHUNK
