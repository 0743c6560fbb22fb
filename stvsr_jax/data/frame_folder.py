"""A folder of images as a clip."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stvsr_jax.data import clip
from stvsr_jax.video import folder_index, scene_cuts, tile_store
from stvsr_jax.video.index import DEFAULT_MAX_KEYFRAME_GAP

# Files of tiles that a process keeps open.
_MOST_OPEN = 64


@dataclasses.dataclass(frozen=True)
class FrameFolder:
    """Images of one size, one per frame; see `clip.Clip`.

    Attributes:
      media: see `folder_index.FolderIndex`.
    """

    name: str
    folder: str
    files: tuple[str, ...] = dataclasses.field(repr=False)
    height: int
    width: int
    scenes: tuple[tuple[int, int], ...]
    media: str

    @property
    def num_frames(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB, in the order of `indices`; see `clip.Clip`.

        Raises:
          ValueError: an image has changed its size, the tiles are damaged, or the indices or the crop do not fit.
          ClipError: an image cannot be read.
        """
        clip.check_read(self, indices, crop)
        numbers = sorted(set(indices))
        part = crop or (0, 0, self.height, self.width)
        read = self._read_tiles if self.media else self._read_images
        found = dict(zip(numbers, read(numbers, part), strict=True))
        return np.stack([found[n] for n in indices])

    def _read_tiles(self, numbers, part):
        for planes in _open_tiles(self.media).read(numbers, part):
            yield np.stack(planes, axis=-1)

    def _read_images(self, numbers, part):
        top, left, height, width = part
        for n in numbers:
            image = folder_index.read_image(Path(self.folder, self.files[n]))
            if image.shape[:2] != (self.height, self.width):
                raise ValueError(
                    f"{self.files[n]} of {self.folder} has changed its size since the clip was opened"
                )
            yield image[top : top + height, left : left + width]


@functools.lru_cache(maxsize=_MOST_OPEN)
def _open_tiles(path: str) -> tile_store.TileFile:
    return tile_store.TileFile(Path(path))


def open_frame_folder(
    folder: str | os.PathLike,
    *,
    name: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = 0.0,
    max_keyframe_gap: int = DEFAULT_MAX_KEYFRAME_GAP,
    cut_threshold: float | None = scene_cuts.DEFAULT_THRESHOLD,
) -> FrameFolder:
    """Opens a folder of images named in the order of their frames.

    Args:
      folder: holds at least one image; other files in it are ignored.
      name: the clip's name, by default the folder's.
      cache_dir: where to keep what was found; see `files.default_cache_dir`.
      cache_gb: see `video.folder_index.load_index`.
      max_keyframe_gap: see `video.folder_index.load_index`.
      cut_threshold: see `scene_cuts.find_cuts`; None takes all images as one scene, decodes none of them and keeps
        nothing.

    Raises:
      ClipError: no images, an image that cannot be read, or images of different sizes.
      OSError: the cache cannot be written or is full, or the machine has run out of something.
    """
    folder = Path(folder).absolute()
    names = folder_index.list_frames(folder)
    if cut_threshold is None:
        index = folder_index.FolderIndex(len(names), *folder_index.read_size(folder, names), media="")
        cuts = []
    else:
        index, thumbnails = folder_index.load_index(
            folder, names, cache_dir=cache_dir, cache_gb=cache_gb, max_keyframe_gap=max_keyframe_gap
        )
        cuts = scene_cuts.find_cuts(thumbnails, threshold=cut_threshold)
    return FrameFolder(
        name=name or folder.name,
        folder=str(folder),
        files=names,
        height=index.height,
        width=index.width,
        scenes=scene_cuts.scenes_between(cuts, index.num_frames),
        media=index.media,
    )
