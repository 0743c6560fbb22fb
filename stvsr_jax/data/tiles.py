"""Frames as grids of losslessly compressed tiles, so that a crop costs the decoding of its own tiles only.

Tiles are lossless WebP: two thirds of the bytes of PNG, twice as fast to decode, as fast to encode as PNG's
fastest setting.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Height and width of a tile in pixels; those at the bottom and right of a frame are smaller. Training crops
# are 140 to 290 pixels wide: smaller tiles cost more in overhead than they save in pixels.
TILE = 128
# Naming the format spares the look at all others, which takes half as long as decoding.
_FORMATS = ("WEBP",)


def encode(frame: np.ndarray) -> list[bytes]:
    """Returns the tiles of a frame, uint8 [H, W, 3] RGB, row by row; raises ValueError for other arrays."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise ValueError(f"a frame of {frame.dtype} {frame.shape} was given; it must be uint8 [H, W, 3]")
    height, width, _ = frame.shape
    tiles = []
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            buffer = io.BytesIO()
            tile = Image.fromarray(np.ascontiguousarray(frame[top : top + TILE, left : left + TILE]))
            tile.save(buffer, "WEBP", lossless=True, quality=0, method=0)
            tiles.append(buffer.getvalue())
    return tiles


def decode(
    tiles: Sequence[bytes], size: tuple[int, int], crop: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Returns a frame, or its (top, left, height, width) part, as uint8 [h, w, 3] RGB.

    Args:
      tiles: from `encode`.
      size: (height, width) of the whole frame.
      crop: must lie inside it.

    Raises:
      ValueError: these are not the tiles of such a frame.
    """
    rows, columns = (-(-length // TILE) for length in size)
    if len(tiles) != rows * columns:
        raise ValueError(
            f"{len(tiles)} tiles were stored for {size[1]}x{size[0]} pixels, not {rows * columns}"
        )
    top, left, height, width = crop or (0, 0, *size)
    result = np.empty((height, width, 3), np.uint8)
    for row in range(top // TILE, -(-(top + height) // TILE)):
        for column in range(left // TILE, -(-(left + width) // TILE)):
            y, x = row * TILE, column * TILE
            pixels = _decode_tile(
                tiles[row * columns + column], min(TILE, size[0] - y), min(TILE, size[1] - x)
            )
            y0, y1 = max(top, y), min(top + height, y + TILE)
            x0, x1 = max(left, x), min(left + width, x + TILE)
            result[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
    return result


def _decode_tile(data: bytes, height: int, width: int) -> np.ndarray:
    try:
        pixels = np.asarray(Image.open(io.BytesIO(data), formats=_FORMATS))
    except OSError as error:
        raise ValueError(f"a tile cannot be decoded: {error}") from error
    if pixels.shape != (height, width, 3):
        raise ValueError(f"a tile has shape {pixels.shape}, not {(height, width, 3)}")
    return pixels
