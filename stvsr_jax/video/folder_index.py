"""The index of a folder of images, one per frame: made once by reading them all, and kept in a cache.

An image is always read whole. Where it is much larger than what a training sample shows of it, the cache holds the frames as
well, in tiles (`tile_store`), which have the same values.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stvsr_jax import files, stages
from stvsr_jax.video import colour, pictures, scan_cache, scene_cuts, tile_codec, tile_store
from stvsr_jax.video.errors import ClipError
from stvsr_jax.video.index import DEFAULT_MAX_KEYFRAME_GAP, IN_ORDER_KEYFRAME_GAP

# Frames of more pixels are kept in tiles, which pays from about four times a crop on.
MOST_PIXELS = 2**18


@dataclasses.dataclass(frozen=True)
class FolderIndex:
    """What is in a folder of frames.

    Attributes:
      num_frames, height, width: in frames and pixels; upright.
      media: the file to read frames from, see `tile_store`; '' if the images are read.
    """

    num_frames: int
    height: int
    width: int
    media: str


def list_frames(folder: Path) -> tuple[str, ...]:
    """Returns the names of a folder's images, in natural order.

    Raises:
      ClipError: there are none.
    """
    names = files.list_images(folder)
    if not names:
        raise ClipError(f"{folder} holds no images; looked for {', '.join(sorted(files.IMAGE_SUFFIXES))}")
    return names


def read_size(folder: Path, names: Sequence[str]) -> tuple[int, int]:
    """Returns the (height, width) of a folder's images, upright, from their headers.

    Raises:
      ClipError: an image cannot be read, or they have different sizes.
    """
    height, width = _read_size(folder / names[0])
    for file in names[1:]:
        if (size := _read_size(folder / file)) != (height, width):
            raise ClipError(
                f"{folder} mixes sizes: {names[0]} is {width}x{height}, {file} is {size[1]}x{size[0]}; "
                "all frames of a clip must have one size"
            )
    return height, width


def entry_of(
    folder: Path, names: Sequence[str], cache_dir: str | os.PathLike | None, max_keyframe_gap: int
) -> tuple[Path, int]:
    """Returns the path of a folder's entry in the cache, without suffix, and the bytes of its images.

    Raises:
      ClipError: an image is not there.
    """
    stats = [_read_status(folder / name) for name in names]
    images = [[name, s.st_size, s.st_mtime_ns] for name, s in zip(names, stats, strict=True)]
    entry = scan_cache.entry_of(cache_dir, [str(folder), images, _may_be_tiled(max_keyframe_gap)])
    return entry, sum(s.st_size for s in stats)


def load_index(
    folder: str | os.PathLike,
    names: Sequence[str],
    *,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = 0.0,
    max_keyframe_gap: int = DEFAULT_MAX_KEYFRAME_GAP,
    workers: int | None = None,
) -> tuple[FolderIndex, np.ndarray]:
    """Returns the index of a folder of images and their thumbnails, from the cache or by reading them once.

    Args:
      folder: of the images.
      names: from `list_frames`.
      cache_dir: for the index, and the tiles if they are needed; see `stvsr_jax.files`.
      cache_gb: what all clips in the cache may take; see `scan_cache.tidy`.
      max_keyframe_gap: as for videos, see `index.load_index`; from IN_ORDER_KEYFRAME_GAP on there are no tiles.
      workers: threads that read images; None: one for each core.

    Returns:
      The index, and the thumbnails of all frames, uint8 [num_frames, *scene_cuts.THUMBNAIL_SIZE, 3].

    Raises:
      ClipError: an image that cannot be read, or images of different sizes.
      OSError: the cache cannot be written or is full, or the machine has run out of something.
    """
    folder = Path(folder).absolute()
    entry, _ = entry_of(folder, names, cache_dir, max_keyframe_gap)

    def scan():
        check_room = functools.partial(scan_cache.check_room, entry.parent, cache_gb)
        tiles = entry.with_suffix(".tiles") if _may_be_tiled(max_keyframe_gap) else None
        index, thumbnails = _scan(folder, names, tiles, check_room, workers or stages.count_cores())
        return dataclasses.asdict(index), thumbnails

    facts, thumbnails = scan_cache.load(entry, scan)
    return FolderIndex(**facts), thumbnails


def read_image(path: Path) -> np.ndarray:
    """Returns an image as uint8 [H, W, 3] RGB, see `pictures`; 16 bits are rounded to 8.

    Raises:
      ClipError: it cannot be read.
    """
    with pictures.naming_damage(path):
        return colour.to_8_bits(pictures.read_picture(path))


def _may_be_tiled(max_keyframe_gap: int) -> bool:
    """Whether frames are read at random, and not in order."""
    return max_keyframe_gap < IN_ORDER_KEYFRAME_GAP


def _scan(
    folder: Path, names: Sequence[str], tiles: Path | None, check_room: Callable[[], None], workers: int
) -> tuple[FolderIndex, np.ndarray]:
    """Reads all images once; writes them to `tiles` if that is not None and they are large."""
    height, width = size = read_size(folder, names)
    if tiles is None or height * width <= MOST_PIXELS:
        thumbnails = [
            thumbnail for thumbnail, _ in _read_frames(folder, names, size, workers, is_coded=False)
        ]
        return FolderIndex(len(names), height, width, media=""), np.stack(thumbnails)
    check_room()
    thumbnails = []
    with files.replacing(tiles) as draft:
        with tile_store.TileWriter(draft, "rgb", size, check_room) as writer:
            for thumbnail, coded in _read_frames(folder, names, size, workers, is_coded=True):
                thumbnails.append(thumbnail)
                writer.add_coded(coded)
        check_room()
    return FolderIndex(len(names), height, width, media=str(tiles)), np.stack(thumbnails)


def _read_frames(folder, names, size, workers, *, is_coded):
    """Yields what `_read_frame` returns of each image."""
    read = functools.partial(_read_frame, size=size, is_coded=is_coded)
    frames = stages.map_ahead(read, (folder / name for name in names), workers=workers, ahead=2 * workers)
    progress = {"desc": f"scanning {folder.name}", "unit": "frame", "leave": False, "disable": None}
    with contextlib.closing(frames):
        yield from tqdm(frames, total=len(names), **progress)


def _read_frame(path: Path, *, size: tuple[int, int], is_coded: bool) -> tuple[np.ndarray, bytes | None]:
    """Returns an image's thumbnail, and the image in coded tiles if wanted."""
    image = read_image(path)
    if image.shape[:2] != size:
        raise ClipError(f"{path} has changed its size while it was read")
    coded = tile_codec.encode(image.transpose(2, 0, 1), "rgb") if is_coded else None
    return scene_cuts.thumbnail(image), coded


def _read_size(path: Path) -> tuple[int, int]:
    with pictures.naming_damage(path):
        header = pictures.read_header(path)
    return header.height, header.width


def _read_status(path: Path) -> Any:
    with pictures.naming_damage(path):
        return path.stat()
