"""Frames in a file of losslessly compressed tiles: a part of a frame costs the decoding of its own tiles only.

Planes are stored as the video's decoder gave them, or as RGB. A tile holds the same square of all planes. Each value is
replaced by its difference from left + above - above left, all modulo 256, and zlib codes the differences (Huffman codes
and runs). Undone by two cumulative sums, for all tiles of several frames at once.

The file is: the frames' tiles; of each frame, before them, their starts; the frames' starts; facts as JSON; its length.
"""

import json
import mmap
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stvsr_jax.video.frame_parts import plane_part

# Pixels of a tile's side. Training crops are 140 to 290 pixels wide: smaller tiles cost more in overhead than they save in
# pixels.
TILE = 64
# Chroma's (y, x) subsampling of the formats stored.
FORMATS = {"yuv420p": (2, 2), "yuv422p": (1, 2), "yuv444p": (1, 1), "rgb": (1, 1)}
_VERSION = 1
# Frames whose tiles are put together at a time.
_TOGETHER = 8
_NO_HEADER = -zlib.MAX_WBITS


class TileWriter:
    """Writes the frames of one video.

    Args:
      path: of the file.
      pixel_format: a name in FORMATS.
      size: (height, width) of a frame, multiples of the subsampling.
    """

    def __init__(self, path: Path, pixel_format: str, size: tuple[int, int]):
        self._facts = {"version": _VERSION, "format": pixel_format, "size": size}
        self._path, self._starts, self._position = path, [], 0
        self._file = open(path, "wb", buffering=0)

    def add(self, planes: Sequence[np.ndarray]) -> None:
        """Appends a frame: uint8 [H, W] and what chroma has, or three of RGB."""
        steps = _steps(self._facts["format"])
        parts = [
            _predict(_split(plane, TILE // sub_y, TILE // sub_x)).reshape(-1, TILE * TILE // sub_y // sub_x)
            for plane, (sub_y, sub_x) in zip(planes, steps, strict=True)
        ]
        tiles = [_compress(values) for values in np.concatenate(parts, axis=1)]
        self._starts.append(self._position)
        self._write(np.cumsum([0, *map(len, tiles)]).astype("<u4").tobytes() + b"".join(tiles))

    def finish(self) -> None:
        """Completes the file."""
        facts = self._facts | {"table": self._position, "count": len(self._starts)}
        text = json.dumps(facts).encode()
        self._write(np.array(self._starts, "<u8").tobytes() + text + len(text).to_bytes(8, "little"))

    def _write(self, data):
        try:
            while data:
                written = self._file.write(data)
                self._position, data = self._position + written, data[written:]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        self._file.close()


class TileFile:
    """Reads frames that `TileWriter` wrote, from any thread.

    Attributes:
      pixel_format: a name in FORMATS.
      size: (height, width) of a frame.

    Raises:
      ValueError: it is no such file.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            with open(path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            length = int.from_bytes(self._bytes[-8:], "little")
            facts = json.loads(self._bytes[-8 - length : -8])
            if facts["version"] != _VERSION:
                raise ValueError(f"version {facts['version']}")
            self.pixel_format, self.size = facts["format"], tuple(facts["size"])
            self._starts = np.frombuffer(self._bytes, "<u8", facts["count"], facts["table"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no file of tiles: {error}") from error

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, numbers: Sequence[int], part: tuple[int, int, int, int]) -> Iterator[list[np.ndarray]]:
        """Yields the planes of a part of some frames, uint8 [h, w].

        Args:
          numbers: of the frames.
          part: (top, left, height, width) in pixels, multiples of the subsampling.

        Raises:
          ValueError: the file is damaged.
        """
        for first in range(0, len(numbers), _TOGETHER):
            some = numbers[first : first + _TOGETHER]
            for planes in zip(*self._read(some, part), strict=True):
                yield list(planes)

    def _read(self, numbers, part):
        """Returns a part of each plane, [N, h, w]."""
        top, left, height, width = part
        rows = range(top // TILE, -(-(top + height) // TILE))
        columns = range(left // TILE, -(-(left + width) // TILE))
        steps = _steps(self.pixel_format)
        sizes = [TILE * TILE // sub_y // sub_x for sub_y, sub_x in steps]
        try:
            tiles = [
                zlib.decompress(tile, _NO_HEADER, sum(sizes))
                for n in numbers
                for tile in self._tiles(n, rows, columns)
            ]
            values = np.frombuffer(b"".join(tiles), np.uint8).reshape(len(tiles), sum(sizes))
        except (zlib.error, ValueError) as error:
            raise ValueError(
                f"{self._path} is damaged in one of the frames {list(numbers)}: {error}"
            ) from error
        planes = []
        corner = rows[0] * TILE, columns[0] * TILE
        for own, (sub_y, sub_x) in zip(np.split(values, np.cumsum(sizes)[:-1], axis=1), steps, strict=True):
            grid = own.reshape(len(numbers), len(rows), len(columns), TILE // sub_y, TILE // sub_x)
            whole = _restore(grid)
            inner = plane_part((top - corner[0], left - corner[1], height, width), (sub_y, sub_x))
            planes.append(whole[:, inner[0], inner[1]])
        return planes

    def _tiles(self, n, rows, columns):
        """Yields the coded tiles of a frame in these rows and columns of its grid."""
        across = -(-self.size[1] // TILE)
        count = -(-self.size[0] // TILE) * across
        first = int(self._starts[n])
        starts = np.frombuffer(self._bytes, "<u4", count + 1, first)
        for row in rows:
            some = (
                starts[row * across + columns[0] : row * across + columns[-1] + 2] + (first + 4 * count + 4)
            ).tolist()
            for start, end in zip(some[:-1], some[1:], strict=True):
                yield self._bytes[start:end]


def _steps(pixel_format):
    return [(1, 1), FORMATS[pixel_format], FORMATS[pixel_format]]


def _split(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the tiles of a plane, row by row, [n, height, width]; the last of each line repeat its border."""
    rows, columns = -(-plane.shape[0] // height), -(-plane.shape[1] // width)
    missing = rows * height - plane.shape[0], columns * width - plane.shape[1]
    plane = np.pad(plane, ((0, missing[0]), (0, missing[1])), mode="edge")
    return plane.reshape(rows, height, columns, width).swapaxes(1, 2).reshape(-1, height, width)


def _predict(tiles: np.ndarray) -> np.ndarray:
    """Returns the differences of uint8 [n, h, w] along both axes; the first row and column stay."""
    across = tiles.copy()
    across[:, :, 1:] -= tiles[:, :, :-1]
    both = across.copy()
    both[:, 1:] -= across[:, :-1]
    return both


def _restore(differences: np.ndarray) -> np.ndarray:
    """Undoes `_predict` on grids of tiles, uint8 [N, rows, columns, h, w]; returns [N, rows * h, columns * w]."""
    n, rows, columns, height, width = differences.shape
    result = np.empty((n, rows, height, columns, width), np.uint8)
    result[:] = np.add.accumulate(differences, axis=4, dtype=np.uint8).swapaxes(2, 3)
    for y in range(1, height):  # faster than `accumulate` along this axis, one row after the other
        result[:, :, y] += result[:, :, y - 1]
    return result.reshape(n, rows * height, columns * width)


def _compress(values: np.ndarray) -> bytes:
    # A search for repeated strings would take twice as long and find less.
    coder = zlib.compressobj(1, zlib.DEFLATED, _NO_HEADER, 6, zlib.Z_RLE)
    return coder.compress(values) + coder.flush()
