"""Clips of a data set that `prepare` made, read at random through TFDS and array_record."""

import dataclasses
import functools
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stvsr_jax.data import clip
from stvsr_jax.video import tile_codec

_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True)
class FrameRecords:
    """The frames of a split: record i of the data set in `folder`. Picklable; each process opens its own."""

    folder: str
    split: str

    def read(self, number: int) -> dict:
        """Returns record `number`; see `builders.records`."""
        with _opening:
            records = _open_records(self.folder, self.split, os.getpid())
        return records[number]


# Two threads that import TFDS at once can wait for each other for ever: one for a module, one for a lazy one's lock.
_opening = threading.Lock()


@functools.lru_cache(maxsize=8)
def _open_records(folder: str, split: str, process: int):
    del process  # a forked process must not share file positions with its parent
    return _open_builder(folder).as_data_source(split)


def _open_builder(folder: str | os.PathLike):
    import tensorflow_datasets as tfds  # takes seconds, and most runs do without

    return tfds.builder_from_directory(folder)


@dataclasses.dataclass(frozen=True, slots=True)
class PreparedClip:
    """Some records in a row, one per frame; see `clip.Clip`. Prepared clips are one scene each."""

    name: str
    records: FrameRecords
    first: int
    num_frames: int
    height: int
    width: int

    @property
    def scenes(self) -> tuple[tuple[int, int], ...]:
        return ((0, self.num_frames),)

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB, in the order of `indices`; see `clip.Clip`."""
        clip.check_read(self, indices, crop)
        numbers, size = sorted(set(indices)), (self.height, self.width)
        try:
            frames = tile_codec.decode(
                [self._read_record(n) for n in numbers], "rgb", size, crop or (0, 0, *size)
            )
            found = dict(zip(numbers, (np.stack(planes, axis=-1) for planes in frames), strict=True))
        except (ValueError, IndexError, RuntimeError, OSError) as error:
            where = f"{self.name} in {self.records.folder}, split {self.records.split}"
            raise ValueError(f"one of the frames {numbers} of {where}, cannot be read: {error}") from error
        return np.stack([found[n] for n in indices])

    def _read_record(self, n: int) -> bytes:
        """Returns frame `n` as `tile_codec` coded it."""
        record = self.records.read(self.first + n)
        if (record["clip"].decode(), record["frame"]) != (self.name, n):
            raise ValueError(
                f"a record is of frame {record['frame']} of {record['clip'].decode()}, not of {n}"
            )
        return record["tiles"]


def find_prepared(path: str | os.PathLike) -> Path | None:
    """Returns the directory of a prepared data set, the newest version if `path` holds several, or None."""
    path = Path(path)
    if (path / "dataset_info.json").is_file():
        return path
    found = [p.parent for p in path.glob("*/dataset_info.json") if _VERSION.fullmatch(p.parent.name)]
    return max(found, key=lambda p: [int(part) for part in p.name.split(".")], default=None)


def list_splits(path: str | os.PathLike) -> list[str]:
    """Returns the names of the splits of a prepared data set."""
    return list(_read_metadata(path)[1])


def open_split(path: str | os.PathLike, split: str) -> list[PreparedClip]:
    """Opens the clips of a split: train, validation, test and others that the data set has.

    Args:
      path: DATA_DIR/NAME or DATA_DIR/NAME/VERSION.
      split: which.

    Raises:
      ValueError: it is no data set that `prepare` made, lacks the split, or is damaged.
    """
    folder, splits = _read_metadata(path)
    if split not in splits:
        raise ValueError(f"{folder} has no split {split!r}; it has {sorted(splits)}")
    records = FrameRecords(str(folder), split)
    clips, first = [], 0
    for name, num_frames, height, width in splits[split]:
        clips.append(PreparedClip(name, records, first, num_frames, height, width))
        first += num_frames
    info = _open_builder(folder).info.splits[split]
    if missing := [file.name for file in info.filepaths if not file.exists()]:
        raise ValueError(f"{folder} lacks {len(missing)} files: {', '.join(missing[:5])}; prepare it again")
    if info.num_examples != first:
        raise ValueError(f"{folder}: split {split} has {info.num_examples} records for {first} frames")
    return clips


def _read_metadata(path: str | os.PathLike) -> tuple[Path, dict[str, list]]:
    """Returns the directory of a prepared data set and the clips of its splits."""
    folder = find_prepared(path)
    if folder is None:
        raise ValueError(
            f"{path} holds no prepared data set; make one with: python -m stvsr_jax.data.prepare"
        )
    folder = folder.absolute()
    metadata = _open_builder(folder).info.metadata
    if not metadata or "clips" not in metadata:
        raise ValueError(f"{folder} is a TFDS data set, but not one that stvsr_jax.data.prepare made")
    if metadata.get("tiles") != tile_codec.VERSION:
        raise ValueError(
            f"{folder} was prepared by another version of this package, which stored frames otherwise; delete it and "
            "prepare it again with: python -m stvsr_jax.data.prepare"
        )
    return folder, metadata["clips"]
