"""Vimeo-90k septuplets (Xue et al., IJCV 2019, arXiv 1711.09078): 7 frames of 448x256 a clip."""

import dataclasses
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from stvsr_jax.data.builders.frame_builder import FrameBuilder
from stvsr_jax.data.builders.source_clip import ImageClip, SourceClip, ZipMember, ZippedClip

ARCHIVE = "vimeo_septuplet.zip"
LISTS = {"train": "sep_trainlist.txt", "test": "sep_testlist.txt"}
_FILES = tuple(f"im{n}.png" for n in range(1, 8))
_NAME = re.compile(r"\d{5}/\d{4}")


class Vimeo90k(FrameBuilder):
    """The septuplets, split by the archive's own lists.

    Args:
      test_lists: text files of clip names by name; each makes a split test_NAME of those clips of the
        archive (published: fast, medium and slow).
      kwargs: of `FrameBuilder`.
    """

    CLIPS_PER_SHARD = 512
    DESCRIPTION = "Vimeo-90k septuplets: 91,701 clips of 7 frames of 448x256 pixels."
    HOMEPAGE = "http://toflow.csail.mit.edu/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"{ARCHIVE}, or a folder that holds it or was extracted from it: sequences/00001/0001/im1.png .. im7.png, "
        "sep_trainlist.txt, sep_testlist.txt"
    )

    def __init__(self, *, test_lists: Mapping[str, str | os.PathLike] | None = None, **kwargs):
        self._test_lists = dict(test_lists or {})
        super().__init__(**kwargs)

    def find_clips(self, source: Path) -> dict[str, list[SourceClip]]:
        archive = _open(source)
        if archive is None:
            raise self.wrong_layout(source)
        lists = {split: _parse_names(archive.read_text(name), name) for split, name in LISTS.items()}
        for name, path in self._test_lists.items():
            lists[f"test_{name}"] = _parse_names(Path(path).read_text(), str(path))
        found, missing = {}, []
        for split, names in lists.items():
            looking = tqdm(names, desc=f"looking for {split}", unit="clip", leave=False, disable=None)
            lacking = {name: sorted(set(_FILES) - archive.list_frames(name)) for name in looking}
            found[split] = [archive.open_clip(name) for name in names if not lacking[name]]
            missing += [f"{name}/{file}" for name, files in lacking.items() for file in files]
        self.check_missing(source, missing)
        return found


@dataclasses.dataclass(frozen=True)
class _Folder:
    """The archive, extracted."""

    root: Path

    def read_text(self, name: str) -> str:
        return (self.root / name).read_text()

    def list_frames(self, clip: str) -> set[str]:
        try:
            return set(os.listdir(self.root / "sequences" / clip))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def open_clip(self, clip: str) -> SourceClip:
        return ImageClip(clip, str(self.root / "sequences" / clip), _FILES)


@dataclasses.dataclass(frozen=True)
class _Zip:
    """The archive itself; `prefix` is the folder in it that everything is in, with a slash, or nothing."""

    path: Path
    prefix: str
    members: Mapping[str, zipfile.ZipInfo]

    def read_text(self, name: str) -> str:
        return ZipMember.of(self.members[self.prefix + name]).read(str(self.path)).decode()

    def list_frames(self, clip: str) -> set[str]:
        return {file for file in _FILES if f"{self.prefix}sequences/{clip}/{file}" in self.members}

    def open_clip(self, clip: str) -> SourceClip:
        members = (self.members[f"{self.prefix}sequences/{clip}/{file}"] for file in _FILES)
        return ZippedClip(clip, str(self.path), tuple(map(ZipMember.of, members)))


def _open(source: Path) -> _Folder | _Zip | None:
    """Returns the archive at `source`, in `source` or extracted to either; None if it is not there."""
    for folder in (source, source / Path(ARCHIVE).stem):
        if all((folder / name).is_file() for name in LISTS.values()) and (folder / "sequences").is_dir():
            return _Folder(folder.absolute())
    for path in (source, source / ARCHIVE):
        if not path.is_file():
            continue
        path = path.absolute()
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.NameToInfo
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"{path} cannot be read as a zip archive ({error}); is its download complete?"
            ) from error
        for prefix in (f"{Path(ARCHIVE).stem}/", ""):
            if all(prefix + name in members for name in LISTS.values()):
                return _Zip(path, prefix, members)
    return None


def _parse_names(text: str, where: str) -> list[str]:
    """Returns the clip names (00001/0001) of a list, one a line; empty lines are skipped."""
    names = [line.strip() for line in text.splitlines() if line.strip()]
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{where} has the line {name!r}; each must be the name of a clip like 00001/0001"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{where} names {len(names) - len(set(names))} clips twice")
    if not names:
        raise ValueError(f"{where} is empty; it must name clips like 00001/0001, one a line")
    return names
