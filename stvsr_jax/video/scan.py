"""Scans videos for the first time: several at once, by one of the processes that want them.

A scan decodes a whole video on little more than one core. Worker processes fill the cache of `index`, a file each
at a time; processes that start together, as those of the GPUs of one machine, take turns with a lock, and find
everything there. A worker reads one path in a line and answers with a line.
"""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
from absl import logging
from tqdm import tqdm

from stvsr_jax import files
from stvsr_jax.video import index

_SMALL = 4 * 2**20  # bytes of all videos; fewer are scanned in less than it takes to start a process


def scan_all(
    paths: Sequence[str | os.PathLike],
    *,
    cache_dir: str | os.PathLike | None = None,
    max_keyframe_gap: int = index.DEFAULT_MAX_KEYFRAME_GAP,
    num_workers: int | None = None,
) -> None:
    """Put into the cache what `index.load_index` finds in the videos, as far as it is not there.

    What is wrong with a video is left for its `load_index` to say.

    Args:
      paths: of videos.
      cache_dir, max_keyframe_gap: as of `load_index`.
      num_workers: processes; None: one for each core. A few small videos are scanned in this one.
    """

    def missing():
        return [path for path in paths if not _is_known(path, cache_dir, max_keyframe_gap)]

    if not missing():
        return
    with _turn(cache_dir):
        waiting = missing()  # another process may have been here
        num_workers = min(num_workers or len(os.sched_getaffinity(0)), len(waiting))
        if num_workers < 2 or sum(os.stat(path).st_size for path in waiting) < _SMALL:
            for path in waiting:
                _scan(path, cache_dir, max_keyframe_gap)
            return
        with tqdm(total=len(waiting), desc="scanning", unit="video", leave=False, disable=None) as progress:
            _share(waiting, cache_dir, max_keyframe_gap, num_workers, progress)


@contextlib.contextmanager
def _turn(cache_dir) -> Iterator[None]:
    folder = Path(cache_dir) if cache_dir else files.default_cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".scan.lock")
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        logging.warning("waiting for another process that scans videos into %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_known(path, cache_dir, max_keyframe_gap):
    try:
        entry = index.entry_of(Path(path).absolute(), cache_dir, max_keyframe_gap)
    except OSError:  # `load_index` will say so
        return True
    return entry.with_suffix(".json").is_file()


def _share(paths, cache_dir, max_keyframe_gap, num_workers, progress):
    left = queue.SimpleQueue()
    for path in paths:
        left.put(str(Path(path).absolute()))
    command = [sys.executable, "-m", __name__, str(cache_dir or ""), str(max_keyframe_gap)]
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


def _scan(path, cache_dir, max_keyframe_gap):
    with contextlib.suppress(ValueError, OSError):  # told when the clip is opened
        index.load_index(path, cache_dir=cache_dir, max_keyframe_gap=max_keyframe_gap)


def _work(cache_dir: str, max_keyframe_gap: str) -> None:
    for line in sys.stdin:  # ends with the process that started this one
        _scan(os.fsdecode(bytes.fromhex(line)), cache_dir or None, int(max_keyframe_gap))
        print("done", flush=True)


if __name__ == "__main__":
    _work(*sys.argv[1:])
