"""Stages of work that overlap: each has threads of its own, is bounded, keeps the order, and measures how busy it is.

A stage is a generator. Its consumer pulls; what it may prepare ahead is bounded, so memory is. Closing the generator
ends its threads: no new item is begun, and those under way are waited for.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_END = object()
_POLL_SECONDS = 0.05
# Of the stages of a job.
_ORDER = ("read", "network", "convert", "encode", "compare", "store")


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a stage did.

    Attributes:
      name: of the stage.
      workers: how many items it works on at a time.
      items: how many it finished.
      busy_seconds: sum over the workers.
      wall_seconds: from the start of the job to its end.
    """

    name: str
    workers: int
    items: int
    busy_seconds: float
    wall_seconds: float

    @property
    def rate(self) -> float:
        """Items a second while all workers are busy."""
        return self.items * self.workers / self.busy_seconds if self.busy_seconds else float("inf")

    @property
    def share_busy(self) -> float:
        """Mean share of its workers that were busy, 0 to 1."""
        return self.busy_seconds / self.workers / self.wall_seconds if self.wall_seconds else 0.0


class Timer:
    """Measures one stage: `with timer.busy(): ...` around the work, from any thread.

    More calls than workers at a time are queued for the same device or core: they count as one worker each, up to
    their number.
    """

    def __init__(self, name: str, workers: int = 1):
        self.name, self.workers = name, workers
        self._lock = threading.Lock()
        self._active = self._items = 0
        self._busy = 0.0
        self._changed = time.perf_counter()

    @contextlib.contextmanager
    def busy(self, items: int = 1) -> Iterator[None]:
        """Counts the time inside, and `items` at its end."""
        self._count(1, 0)
        try:
            yield
        finally:
            self._count(-1, items)

    def add(self, items: int) -> None:
        """Counts items whose time was counted already."""
        self._count(0, items)

    def _count(self, change, items):
        with self._lock:
            now = time.perf_counter()
            self._busy += min(self._active, self.workers) * (now - self._changed)
            self._changed = now
            self._active += change
            self._items += items

    def usage(self, wall_seconds: float) -> Usage:
        """Returns what was measured."""
        self._count(0, 0)
        return Usage(self.name, self.workers, self._items, self._busy, wall_seconds)


class Timers:
    """The timers of a job's stages, from its start on."""

    def __init__(self):
        self._timers: list[Timer] = []
        self._began = time.perf_counter()

    def add(self, name: str, workers: int = 1) -> Timer:
        """Returns the timer of another stage."""
        self._timers.append(Timer(name, workers))
        return self._timers[-1]

    def usage(self) -> list[Usage]:
        """Returns what the stages did so far."""
        wall = time.perf_counter() - self._began
        return [
            timer.usage(wall) for timer in sorted(self._timers, key=lambda timer: _ORDER.index(timer.name))
        ]


def count_cores() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ahead(
    items: Iterable[Any], size: int, timer: Timer, *, count: Callable[[Any], int] = lambda item: 1
) -> Iterator[Any]:
    """Yields items that a thread of their own makes, at most `size` ahead.

    An error of theirs comes after the items before it.

    Args:
      items: that are made one by one.
      size: of the queue.
      timer: of making them.
      count: how many an item counts for.
    """
    waiting = queue.Queue(size)
    is_closed = threading.Event()

    def put(entry):
        while not is_closed.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put(entry, timeout=_POLL_SECONDS)

    def run():
        iterator = iter(items)
        try:
            while not is_closed.is_set():
                with timer.busy(0):
                    item = next(iterator, _END)
                timer.add(0 if item is _END else count(item))
                put((item, None))
                if item is _END:
                    return
        except BaseException as error:  # whatever it is, it is the consumer's
            put((_END, error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    # Not a daemon: one that is cut off inside of a library may take the process down.
    thread = threading.Thread(target=run, name="read_ahead")
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        is_closed.set()
        thread.join()


def map_ahead(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    workers: int,
    ahead: int,
    timer: Timer | None = None,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Any]:
    """Maps items in threads, in order, with at most `ahead` results waiting or under way.

    Args:
      function: of one item.
      items: as they come; an error of theirs is raised after the results of the items before it.
      workers: threads.
      ahead: at least as many as `workers` to keep them busy.
      timer: counts every call; None where the function does so itself.
      initializer: called in each thread before its first item.
    """

    def call(item):
        with timer.busy() if timer else contextlib.nullcontext():
            return function(item)

    waiting = collections.deque()
    failure = None
    iterator = iter(items)
    pool = concurrent.futures.ThreadPoolExecutor(workers, initializer=initializer)
    try:
        while failure is None:
            try:
                waiting.append(pool.submit(call, next(iterator)))
            except StopIteration:
                break
            except Exception as error:
                failure = error
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if hasattr(iterator, "close"):
            iterator.close()
