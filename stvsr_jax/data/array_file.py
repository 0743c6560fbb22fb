"""A scene of frames in a .npy file: read at random without decoding, and shared by all processes of a machine."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stvsr_jax.data import clip
from stvsr_jax.video.errors import ClipError

SUFFIX = ".npy"


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """Frames uint8 [N, H, W, 3] of one scene, in a file; see `clip.Clip`."""

    name: str
    path: str
    num_frames: int
    height: int
    width: int

    @property
    def scenes(self) -> tuple[tuple[int, int], ...]:
        return ((0, self.num_frames),)

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB, in the order of `indices`; see `clip.Clip`."""
        clip.check_read(self, indices, crop)
        top, left, height, width = crop or (0, 0, self.height, self.width)
        frames = _open(self.path)
        return np.stack([frames[n, top : top + height, left : left + width] for n in indices])


def open_array_file(path: str | os.PathLike, *, name: str | None = None) -> ArrayFile:
    """Opens a file that `data.decode` or `np.save` wrote.

    Raises:
      ClipError: it is no array of 8-bit RGB frames.
    """
    path = Path(path).absolute()
    try:
        frames = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ClipError(f"{path} cannot be read as an array: {error}") from error
    if not isinstance(frames, np.ndarray):  # a .npz under another name
        raise ClipError(f"{path} cannot be read as an array: it is an archive of several")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ClipError(f"{path} holds {frames.dtype}{list(frames.shape)}; frames must be uint8 [N, H, W, 3]")
    count, height, width, _ = frames.shape
    return ArrayFile(name or path.stem, str(path), count, height, width)


@functools.lru_cache(maxsize=4096)
def _open(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r")
