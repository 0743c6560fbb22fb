"""A file of frames in tiles, see `tile_codec`.

The file is: the coded frames; where each begins and the last one ends (uint64); facts as JSON; their length.
"""

import contextlib
import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stvsr_jax.video import tile_codec

# Bytes between two calls of `check_room`.
_CHECKED_BYTES = 2**26


class TileWriter:
    """Writes the frames of one clip; used by `with`, whose end completes the file.

    Args:
      path: of the file.
      pixel_format: a name in `tile_codec.FORMATS`.
      size: (height, width) of a frame, multiples of the subsampling.
      check_room: called now and then, and may raise.
    """

    def __init__(
        self,
        path: Path,
        pixel_format: str,
        size: tuple[int, int],
        check_room: Callable[[], None] = lambda: None,
    ):
        self._facts = {"version": tile_codec.VERSION, "format": pixel_format, "size": size}
        self._path, self._starts = path, [0]
        self._check_room, self._checked = check_room, 0
        self._file = open(path, "wb", buffering=0)

    def add(self, planes: Sequence[np.ndarray]) -> None:
        """Appends a frame, see `tile_codec.encode`."""
        self.add_coded(tile_codec.encode(planes, self._facts["format"]))

    def add_coded(self, data: bytes) -> None:
        """Appends a frame that `tile_codec.encode` returned."""
        self._write(data)
        self._starts.append(self._starts[-1] + len(data))
        if self._starts[-1] > self._checked + _CHECKED_BYTES:
            self._check_room()
            self._checked = self._starts[-1]

    def __enter__(self) -> "TileWriter":
        return self

    def __exit__(self, *exception: Any) -> None:
        with contextlib.closing(self._file):
            if exception[0] is None:
                text = json.dumps(self._facts | {"count": len(self._starts) - 1}).encode()
                self._write(np.array(self._starts, "<u8").tobytes() + text + len(text).to_bytes(8, "little"))

    def _write(self, data):
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


class TileFile:
    """Reads frames that `TileWriter` wrote, from any thread.

    Attributes:
      pixel_format: a name in `tile_codec.FORMATS`.
      size: (height, width) of a frame.

    Raises:
      ValueError: it is no such file.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            with open(path, "rb") as file:
                self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            end = len(self._bytes) - 8
            length = int.from_bytes(self._bytes[end:], "little")
            facts = json.loads(bytes(self._bytes[end - length : end]))
            if facts["version"] != tile_codec.VERSION:
                raise ValueError(f"version {facts['version']}")
            self.pixel_format, self.size = facts["format"], tuple(facts["size"])
            table = end - length - 8 * (facts["count"] + 1)
            self._starts = np.frombuffer(self._bytes, "<u8", facts["count"] + 1, table)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no file of tiles: {error}") from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    def read(self, numbers: Sequence[int], part: tuple[int, int, int, int]) -> Iterator[list[np.ndarray]]:
        """Yields the planes of a part of some frames, uint8 [h, w].

        Args:
          numbers: of the frames.
          part: (top, left, height, width) in pixels, multiples of the subsampling.

        Raises:
          ValueError: the file is damaged.
        """
        frames = [self._bytes[self._starts[n] : self._starts[n + 1]] for n in numbers]
        try:
            yield from tile_codec.decode(frames, self.pixel_format, self.size, part)
        except ValueError as error:
            raise ValueError(
                f"{self._path} is damaged in one of the frames {list(numbers)}: {error}"
            ) from error
