"""Files: written whole or not at all, caches of what was found out about others, lists of images, names that fit.

Files are written under another name and renamed: a crash or two processes at work on the same video leave nothing
half-written behind. Entries of a cache are named after the absolute path, size and modification time of what they
describe.
"""

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
# Files taken for videos when a folder is searched; a file named outright may be called anything.
VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3gp .asf .avi .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m2ts .m2v .m4v .mkv .mov .mp4 .mpeg .mpg "
    ".mts .mxf .nut .obu .ogv .ts .vob .webm .wmv .y4m".split()
)
_LONGEST_NAME = 255  # bytes


def default_cache_dir() -> Path:
    """Returns $XDG_CACHE_HOME/stvsr_jax, or ~/.cache/stvsr_jax without that variable."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stvsr_jax"


def entry_path(cache_dir: str | os.PathLike | None, kind: str, facts: list) -> Path:
    """Returns the path, without suffix, of the entry for `facts` (JSON-like values that identify it)."""
    digest = hashlib.sha256(json.dumps([kind, *facts]).encode()).hexdigest()[:24]
    return (Path(cache_dir) if cache_dir else default_cache_dir()) / kind / digest


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on success it becomes `path`, on an exception it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.draft{path.suffix}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: dict, *, is_synced: bool = False) -> None:
    """Writes `value` to `path` in one step; `is_synced` waits until it is on the disk."""
    with replacing(path) as draft, open(draft, "w") as file:
        json.dump(value, file)
        if is_synced:
            file.flush()
            os.fsync(file.fileno())


def read_json(path: Path) -> dict | None:
    """Returns what `write_json` wrote, or None if there is nothing or nothing readable."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_array(path: Path, value: np.ndarray) -> None:
    """Writes `value` to `path`, a .npy file, in one step."""
    with replacing(path) as draft:
        try:
            np.save(draft, value)
        except OSError as error:  # on a full disk NumPy names neither the file nor the reason
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def read_array(path: Path) -> np.ndarray | None:
    """Returns what `write_array` wrote, or None if there is nothing or nothing readable."""
    try:
        return np.load(path)
    except (FileNotFoundError, ValueError, EOFError):
        return None


def fit_name(path: Path, ending: str) -> Path:
    """Returns a path with an ending, its name shortened where file systems allow no longer ones."""
    name = path.name
    if len(os.fsencode(name + ending)) > _LONGEST_NAME:
        ending = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{ending}"
        while len(os.fsencode(name + ending)) > _LONGEST_NAME:
            name = name[:-1]
    return path.with_name(name + ending)


def natural_key(name: str) -> list:
    """Returns a sort key by which `frame2` comes before `frame10`."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]


def list_images(folder: str | os.PathLike) -> tuple[str, ...]:
    """Returns the names of the images in `folder`, in natural order, without hidden files.

    Links that lead nowhere are among them: leaving a frame out would shift all that come after it.
    """
    names = [n for n in os.listdir(folder) if Path(n).suffix.lower() in IMAGE_SUFFIXES and n[0] != "."]
    return tuple(sorted((n for n in names if is_file_or_dead_link(Path(folder, n))), key=natural_key))


def is_file_or_dead_link(path: Path) -> bool:
    """Returns whether `path` is, or is meant to be, a file: no folder, pipe or device."""
    return path.is_file() or not path.exists()
