"""A folder of images as a clip."""

import contextlib
import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from stvsr_jax import files
from stvsr_jax.data import clip
from stvsr_jax.video import colour, pictures, scene_cuts
from stvsr_jax.video.errors import OUT_OF_RESOURCES, ClipError

# What Pillow raises for damaged files; a SyntaxError is one of a PNG's.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_VERSION = 2


@dataclasses.dataclass(frozen=True)
class FrameFolder:
    """Images of one size, one per frame; see `clip.Clip`."""

    name: str
    folder: str
    files: tuple[str, ...] = dataclasses.field(repr=False)
    height: int
    width: int
    scenes: tuple[tuple[int, int], ...]

    @property
    def num_frames(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB, in the order of `indices`; see `clip.Clip`.

        Raises:
          ValueError: an image has changed its size, or the indices or the crop do not fit.
          ClipError: an image cannot be read.
        """
        clip.check_read(self, indices, crop)
        top, left, height, width = crop or (0, 0, self.height, self.width)
        found = {}
        for n in set(indices):
            image = _read_image(Path(self.folder, self.files[n]))
            if image.shape[:2] != (self.height, self.width):
                raise ValueError(
                    f"{self.files[n]} of {self.folder} has changed its size since the clip was opened"
                )
            found[n] = image[top : top + height, left : left + width]
        return np.stack([found[n] for n in indices])


def open_frame_folder(
    folder: str | os.PathLike,
    *,
    name: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    cut_threshold: float | None = scene_cuts.DEFAULT_THRESHOLD,
) -> FrameFolder:
    """Opens a folder of images named in the order of their frames.

    Args:
      folder: holds at least one image; other files in it are ignored.
      name: the clip's name, by default the folder's.
      cache_dir: where the thumbnails for finding cuts are kept; see `files.default_cache_dir`.
      cut_threshold: see `scene_cuts.find_cuts`; None takes all images as one scene and decodes none of them.

    Raises:
      ClipError: no images, an image that cannot be read, or images of different sizes.
    """
    folder = Path(folder).absolute()
    names = files.list_images(folder)
    if not names:
        raise ClipError(f"{folder} holds no images; looked for {', '.join(sorted(files.IMAGE_SUFFIXES))}")
    height, width = _read_size(folder / names[0])
    for file in names[1:]:
        if (size := _read_size(folder / file)) != (height, width):
            raise ClipError(
                f"{folder} mixes sizes: {names[0]} is {width}x{height}, {file} is {size[1]}x{size[0]}; "
                "all frames of a clip must have one size"
            )
    cuts = []
    if cut_threshold is not None:
        cuts = scene_cuts.find_cuts(_load_thumbnails(folder, names, cache_dir), threshold=cut_threshold)
    scenes = scene_cuts.scenes_between(cuts, len(names))
    return FrameFolder(
        name=name or folder.name, folder=str(folder), files=names, height=height, width=width, scenes=scenes
    )


def _read_size(path: Path) -> tuple[int, int]:
    """Returns an image's (height, width), upright, from its header."""
    with naming_damage(path):
        header = pictures.read_header(path)
    return header.height, header.width


def _read_image(path: Path) -> np.ndarray:
    """Returns an image as uint8 [H, W, 3] RGB, see `pictures`; 16 bits are rounded to 8."""
    with naming_damage(path):
        return colour.to_8_bits(pictures.read_picture(path))


@contextlib.contextmanager
def naming_damage(path: Path, kind: str = "image") -> Iterator[None]:
    """Turns the errors of reading an image into a ClipError, or an OSError if the machine is at fault."""
    try:
        yield
    except _DAMAGE as error:
        if getattr(error, "errno", None) in OUT_OF_RESOURCES:
            raise
        # Pillow's message names the file once more, or the object it was read through.
        why = f"it is no {kind}" if isinstance(error, UnidentifiedImageError) else error
        article = "an" if kind[0] in "aeiou" else "a"
        raise ClipError(f"{path} cannot be read as {article} {kind}: {why}") from error


def _load_thumbnails(folder: Path, names: tuple[str, ...], cache_dir: str | os.PathLike | None) -> np.ndarray:
    """Returns the thumbnails of all images, uint8 [N, *scene_cuts.THUMBNAIL_SIZE, 3], made or cached."""
    stats = [(folder / file).stat() for file in names]
    facts = [
        _VERSION,
        str(folder),
        [[f, s.st_size, s.st_mtime_ns] for f, s in zip(names, stats, strict=True)],
    ]
    entry = files.entry_path(cache_dir, "folders", facts).with_suffix(".npy")
    thumbnails = files.read_array(entry)
    if thumbnails is not None and len(thumbnails) == len(names):
        return thumbnails
    height, width = scene_cuts.THUMBNAIL_SIZE
    progress = tqdm(names, desc=f"scanning {folder.name}", unit="frame", leave=False, disable=None)
    thumbnails = np.stack(
        [
            Image.fromarray(_read_image(folder / f)).resize((width, height), Image.Resampling.BOX)
            for f in progress
        ]
    )
    files.write_array(entry, thumbnails)
    return thumbnails
