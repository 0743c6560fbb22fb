"""Ends segments of the outputs, and makes them and the progress safe while later ones are made."""

import collections
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stvsr_jax import stages
from stvsr_jax.inference import predictor
from stvsr_jax.inference.pipeline import Output
from stvsr_jax.inference.work_folder import WorkFolder


@dataclasses.dataclass(frozen=True)
class Sink:
    """A writer of `writers`, and the picture that it is given of an output."""

    writer: Any
    choose: Callable[[Output], np.ndarray]


class Saver:
    """Stores segments in order, in a thread of its own, and after each the progress that speaks of it.

    Leaving it after an error waits for what is under way; leaving it for an interruption does not.

    Args:
      folder: of the progress.
      sinks: whose segments end together.
      network: whose tile is part of the progress.
      batch: the same.
      done: outputs that are stored already.
      timer: of storing.
    """

    def __init__(
        self,
        folder: WorkFolder,
        sinks: Sequence[Sink],
        network: predictor.Predictor,
        batch: int,
        done: int,
        timer: stages.Timer,
    ):
        self._folder, self._sinks, self._network, self._timer = folder, sinks, network, timer
        self._count = done
        self._kept = {"batch": batch}  # what is gone on with
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._waiting = collections.deque()
        self._has_failed = False

    def save(self, count: int, *, is_complete: bool = False) -> None:
        """Ends a segment of every sink, `count` outputs in; raises what storing earlier ones raised."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()
        segments = [sink.writer.cut() for sink in self._sinks]
        tile, new = self._network.tile, count - self._count
        self._count = count
        self._waiting.append(self._pool.submit(self._store, segments, count, new, is_complete, tile))

    def wait(self) -> None:
        """Waits until all is stored."""
        while self._waiting:
            self._waiting.popleft().result()

    def _store(self, segments, count, new, is_complete, tile):
        if self._has_failed:
            return  # nothing may follow a segment that is not stored
        self._has_failed = True
        for segment in segments:
            segment.wait()
        with self._timer.busy(new):
            pairs = zip(self._sinks, segments, strict=True)
            marks = [sink.writer.store(segment) for sink, segment in pairs]
            facts = {"outputs": count, "is_complete": is_complete, "marks": marks, "tile": tile}
            self._folder.save({**self._kept, **facts})
        self._has_failed = False

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and issubclass(kind, Exception):
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self.wait()
        elif kind is not None:  # at once
            for sink in self._sinks:
                sink.writer.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
