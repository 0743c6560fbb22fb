"""Scans clips for the first time: several at once, by one of the processes that want them.

A scan decodes a whole video or folder of images on little more than one core. Worker processes fill the cache of `index` and
`folder_index`, one clip at a time; `scan_cache` locks each. Processes that start together and want the same clips (one for each
GPU of a machine, say) take turns: the first scans, the others find the results. A worker reads one path per line and answers
with a line.
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from stvsr_jax import files
from stvsr_jax.locks import in_turn
from stvsr_jax.video import folder_index, index, scan_cache
from stvsr_jax.video.errors import ClipError

_SMALL = 4 * 2**20  # bytes of all clips; fewer are scanned in less than it takes to start a process


def scan_all(
    paths: Sequence[str | os.PathLike],
    *,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = 0.0,
    max_keyframe_gap: int = index.DEFAULT_MAX_KEYFRAME_GAP,
    num_workers: int | None = None,
) -> None:
    """Fills the cache of `index.load_index` and `folder_index.load_index` for the clips that it lacks.

    One clip, or a few small ones, are left to `load_index`. So are errors of a clip.

    Args:
      paths: of videos, and of folders of images.
      cache_dir, cache_gb, max_keyframe_gap: as of `load_index`.
      num_workers: processes; None: one for each core.
    """

    sizes, entries = {}, {}
    for path, entry, size in _find_entries(paths, cache_dir, max_keyframe_gap):
        sizes[path], entries[path] = size, entry
    # All at once: none of them may leave for another one of them.
    scan_cache.use(entries.values())
    for folder in {entry.parent for entry in entries.values()}:
        with contextlib.suppress(OSError):  # a cache that may only be read
            scan_cache.tidy(folder, cache_gb)

    def missing():
        return [path for path, entry in entries.items() if not entry.with_suffix(".json").is_file()]

    num_workers = num_workers or len(os.sched_getaffinity(0))
    waiting = missing()
    if min(num_workers, len(waiting)) < 2 or sum(map(sizes.get, waiting)) < _SMALL:
        return
    with _turn(paths, cache_dir):
        if waiting := missing():  # another process may have been here
            with tqdm(
                total=len(waiting), desc="scanning", unit="clip", leave=False, disable=None
            ) as progress:
                _share(
                    waiting, cache_dir, cache_gb, max_keyframe_gap, min(num_workers, len(waiting)), progress
                )


def _turn(paths, cache_dir) -> contextlib.AbstractContextManager:
    """Keeps others that want the same clips from starting as many workers again."""
    names = sorted(str(Path(path).absolute()) for path in paths)
    lock = files.entry_path(cache_dir, "scans", names).with_suffix(".lock")
    return in_turn(lock, "another process that scans the same clips")


def _find_entries(paths, cache_dir, max_keyframe_gap):
    """Yields the clips that exist, each with its entry in the cache and its size in bytes."""
    for path in paths:
        with contextlib.suppress(OSError, ClipError):  # `load_index` will say so
            if os.path.isdir(path):
                folder = Path(path).absolute()
                names = folder_index.list_frames(folder)
                yield path, *folder_index.entry_of(folder, names, cache_dir, max_keyframe_gap)
            else:
                entry = index.entry_of(Path(path).absolute(), cache_dir, max_keyframe_gap)
                yield path, entry, os.stat(path).st_size


def _share(paths, cache_dir, cache_gb, max_keyframe_gap, num_workers, progress):
    left = queue.SimpleQueue()
    for path in paths:
        left.put(str(Path(path).absolute()))
    command = [sys.executable, "-m", __name__, str(cache_dir or ""), str(cache_gb), str(max_keyframe_gap)]
    # Their messages are shown; one bar here stands for theirs.
    environment = os.environ | {"TQDM_DISABLE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        for _ in range(num_workers)
    ]
    threads = [threading.Thread(target=_feed, args=(worker, left, progress)) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.kill()  # all have ended, or this process is interrupted
            worker.wait()
        for stream in (stream for worker in workers for stream in (worker.stdin, worker.stdout)):
            with contextlib.suppress(OSError):
                stream.close()


def _feed(worker, left, progress):
    with contextlib.suppress(OSError):  # the worker has ended: the others, or `load_index`, take the rest
        while True:
            try:
                path = left.get_nowait()
            except queue.Empty:
                return
            worker.stdin.write(os.fsencode(path).hex().encode() + b"\n")
            worker.stdin.flush()
            if not worker.stdout.readline():
                return
            progress.update()


def _work(cache_dir: str, cache_gb: str, max_keyframe_gap: str) -> None:
    options = {
        "cache_dir": cache_dir or None,
        "cache_gb": float(cache_gb),
        "max_keyframe_gap": int(max_keyframe_gap),
    }
    for line in sys.stdin:  # ends with the process that started this one
        path = os.fsdecode(bytes.fromhex(line))
        with contextlib.suppress(ValueError, OSError):  # told when the clip is opened
            if os.path.isdir(path):
                names = folder_index.list_frames(Path(path))
                folder_index.load_index(path, names, workers=1, **options)
            else:
                index.load_index(path, **options)
        print("done", flush=True)


if __name__ == "__main__":
    _work(*sys.argv[1:])
