"""Photographs as arrays that all processes of a machine share through the page cache."""

import concurrent.futures
import functools
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from stvsr_jax import files
from stvsr_jax.files import IMAGE_SUFFIXES, is_file_or_dead_link, natural_key
from stvsr_jax.stages import count_cores
from stvsr_jax.video.errors import ClipError
from stvsr_jax.video.pictures import naming_damage

_VERSION = 1


def load_photos(
    folder: str | os.PathLike,
    *,
    cache_dir: str | os.PathLike | None = None,
    min_side: int = 1,
    faults: list[str] | None = None,
) -> tuple[str, ...]:
    """Decodes every photograph of a folder once.

    Args:
      folder: holds images, also in folders below it; other files are ignored.
      cache_dir: where the decoded pixels are kept; by default `files.default_cache_dir()`.
      min_side: photographs with fewer pixels along a side are left out.
      faults: gets a sentence about each photograph that cannot be read, which is then left out; None raises the
        first one's.

    Returns:
      The paths of .npy files, uint8 [H, W, 3] RGB, in the natural order of the photographs' names.

    Raises:
      FileNotFoundError: no such folder.
      ClipError: a photograph cannot be read, and `faults` is None.
      ValueError: it holds no photograph that is large enough.
      OSError: the cache cannot be written, or the machine has run out of something.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of photographs at {folder}")
    paths = sorted(
        (f for f in folder.rglob("[!.]*") if f.suffix.lower() in IMAGE_SUFFIXES and is_file_or_dead_link(f)),
        key=lambda file: natural_key(file.relative_to(folder).as_posix()),
    )
    with concurrent.futures.ThreadPoolExecutor(count_cores()) as pool:
        progress = tqdm(total=len(paths), desc="photographs", leave=False, disable=None)
        entries = []
        for entry in pool.map(lambda file: _try_decode(file, cache_dir, min_side), paths):
            progress.update()
            if isinstance(entry, ClipError):
                if faults is None:
                    raise entry
                faults.append(str(entry))
            else:
                entries.append(entry)
        progress.close()
    entries = tuple(str(entry) for entry in entries if entry is not None)
    if not entries:
        if faults:
            raise ValueError(f"{folder} holds no photograph that can be used: {'; '.join(faults)}")
        raise ValueError(f"{folder} holds no photograph of at least {min_side}x{min_side} pixels")
    return entries


@functools.lru_cache(maxsize=4096)
def open_photo(path: str) -> np.ndarray:
    """Returns a decoded photograph, uint8 [H, W, 3], mapped from its file: only pixels that are used are read."""
    return np.load(path, mmap_mode="r")


def _try_decode(file: Path, cache_dir, min_side: int) -> Path | ClipError | None:
    try:
        return _decode(file, cache_dir, min_side)
    except ClipError as error:
        return error


def _decode(file: Path, cache_dir, min_side: int) -> Path | None:
    """Returns where a photograph's pixels are kept; None if it is too small."""
    with naming_damage(file, "photograph"):
        status = file.stat()
    facts = [_VERSION, str(file), status.st_size, status.st_mtime_ns]
    entry = files.entry_path(cache_dir, "photos", facts).with_suffix(".npy")
    with naming_damage(file, "photograph"), Image.open(file) as image:
        if min(image.size) < min_side:
            return None
        if entry.is_file():
            return entry
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    files.write_array(entry, pixels)
    return entry
