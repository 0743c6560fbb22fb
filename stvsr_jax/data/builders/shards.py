"""Makes the shards of a data set, in several processes, each shard once however often it is interrupted.

A shard is written under another name and renamed when it is whole; the list of its clips, written last, says
that it is. Both are named after what they are made of, so a source that has changed is not mistaken for
what it was.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from stvsr_jax import files
from stvsr_jax.data.builders import records
from stvsr_jax.data.builders.source_clip import SourceClip, UnusableClip
from stvsr_jax.data.workers import end_with_parent
from stvsr_jax.video import tile_codec

# Part of the names of shards: raise it when their content changes.
_VERSION = 2
# Problems that a message spells out.
_SHOWN = 10
# Frames between two reports of a worker.
_REPORT_EVERY = 16


@dataclasses.dataclass(frozen=True)
class ClipEntry:
    """A clip of a shard; sizes in frames and pixels."""

    name: str
    num_frames: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished shard: an array_record file and the clips in it, in order."""

    path: Path
    clips: tuple[ClipEntry, ...]

    @property
    def num_frames(self) -> int:
        return sum(clip.num_frames for clip in self.clips)


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """A shard to be made, and the name it has from what it is made of."""

    clips: tuple[SourceClip, ...]
    name: str

    @property
    def num_frames(self) -> int:
        return sum(clip.num_frames for clip in self.clips)


def plan(clips: Sequence[SourceClip], clips_per_shard: int) -> list[ShardPlan]:
    """Divides clips, in their order, into shards."""
    plans = []
    starts = range(0, len(clips), clips_per_shard)
    for first in tqdm(starts, desc="looking at files", unit="shard", leave=False, disable=None):
        group = tuple(clips[first : first + clips_per_shard])
        facts = json.dumps([_VERSION, tile_codec.VERSION, [[clip.name, clip.facts()] for clip in group]])
        plans.append(ShardPlan(group, hashlib.sha256(facts.encode()).hexdigest()[:24]))
    return plans


def make(
    planned: Mapping[str, Sequence[ShardPlan]], parts_dir: Path, *, num_workers: int, description: str
) -> dict[str, list[Shard]]:
    """Makes the shards that `parts_dir` lacks.

    Args:
      planned: the shards of each split.
      parts_dir: where they go; what it holds of earlier plans is removed.
      num_workers: processes.
      description: for the progress bar.

    Returns:
      The finished shards of each split, as planned.

    Raises:
      ValueError: frames cannot be read. All are named, and all shards without one are finished first.
    """
    parts_dir.mkdir(parents=True, exist_ok=True)
    plans = {item.name: item for split in planned.values() for item in split}
    for path in filter(Path.is_file, parts_dir.iterdir()):
        if path.name.split(".")[0] not in plans or ".draft" in path.suffixes:
            path.unlink()
    missing = [item for item in plans.values() if _load(parts_dir, item.name) is None]
    total = sum(item.num_frames for item in plans.values())
    done = total - sum(item.num_frames for item in missing)
    problems = []
    with tqdm(total=total, initial=done, desc=description, unit="frame", smoothing=0.05) as progress:
        for found in _run(missing, parts_dir, num_workers, progress.update):
            problems += found
    if problems:
        more = f", and {len(problems) - _SHOWN} more clips" if len(problems) > _SHOWN else ""
        raise ValueError(
            "; ".join(problems[:_SHOWN]) + more + ". Replace them and run again: the rest is kept"
        )
    return {split: [_load(parts_dir, item.name) for item in items] for split, items in planned.items()}


def _load(parts_dir: Path, name: str) -> Shard | None:
    """Returns a finished shard, None if it is not."""
    path = parts_dir / f"{name}.array_record"
    clips = files.read_json(parts_dir / f"{name}.json")
    return Shard(path, tuple(ClipEntry(*clip) for clip in clips)) if clips and path.is_file() else None


def _run(
    missing: Sequence[ShardPlan], parts_dir: Path, num_workers: int, report: Callable[[int], None]
) -> Iterator[list[str]]:
    """Makes shards here or in processes; yields what is wrong with each, in any order."""
    if num_workers == 1 or len(missing) < 2:
        yield from (_write(item, parts_dir, report) for item in missing)
        return
    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    listener = threading.Thread(target=lambda: [report(n) for n in iter(reports.get, None)], daemon=True)
    listener.start()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(missing)), mp_context=context, initializer=_start_worker, initargs=(reports,)
    )
    try:
        jobs = [pool.submit(_write_in_worker, item, parts_dir) for item in missing]
        for job in concurrent.futures.as_completed(jobs):
            yield job.result()
    except KeyboardInterrupt:
        tqdm.write("interrupted: finishing the shards in work", file=sys.stderr)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        reports.put(None)
        listener.join()


def _start_worker(reports) -> None:
    """Keeps where to report to, and ends with the process that started this one, however that ends."""
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted parent lets shards in work finish
    end_with_parent()


def _write_in_worker(item: ShardPlan, parts_dir: Path) -> list[str]:
    return _write(item, parts_dir, _reports.put)


def _write(item: ShardPlan, parts_dir: Path, report: Callable[[int], None]) -> list[str]:
    """Makes one shard; returns what is wrong with its clips, and leaves nothing if anything is."""
    entries, problems = [], []
    try:
        with files.replacing(parts_dir / f"{item.name}.array_record") as draft:
            writer = ArrayRecordWriter(str(draft), "group_size:1")
            for clip in item.clips:
                # Once a clip is bad the others are only looked at.
                write = None if problems else writer.write
                try:
                    entries.append(_write_clip(clip, write, report))
                except UnusableClip as error:
                    problems.append(f"{clip.name}: {error}")
            writer.close()
            if problems:
                raise UnusableClip
            written, expected = (
                ArrayRecordReader(str(draft)).num_records(),
                sum(e.num_frames for e in entries),
            )
            if written != expected:
                raise OSError(f"{draft} has {written} of {expected} records; is the disk full?")
    except UnusableClip:
        return problems
    except RuntimeError as error:  # of the array_record library, when the disk is full
        raise OSError(f"a shard cannot be written: {error}") from error
    files.write_json(parts_dir / f"{item.name}.json", [dataclasses.astuple(e) for e in entries])
    return []


def _write_clip(
    clip: SourceClip, write: Callable[[bytes], None] | None, report: Callable[[int], None]
) -> ClipEntry:
    """Writes the records of a clip, or only decode it; raises UnusableClip naming all bad frames."""
    number, reported = 0, 0
    for frame in clip.frames():
        if write is not None:
            write(records.serialize(clip.name, number, frame))
        number += 1
        if number - reported == _REPORT_EVERY:
            report(_REPORT_EVERY)
            reported = number
    report(number - reported)
    return ClipEntry(clip.name, number, *frame.shape[:2])
