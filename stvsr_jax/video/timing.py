"""Presentation times of frames: constant or varying rate, timestamps (pts) in order."""

import collections
import heapq
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

_Item = TypeVar("_Item")

# Containers that count milliseconds, and recorders that did, put 30 frames per second at 33, 67, 100 ms.
_ROUNDING = 1.5e-3
# Rates that video is made at; a guess this close (relative) to one is tried as that.
_NTSC_RATES = [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120, 240)]
_USUAL_RATES = [*map(Fraction, range(1, 241)), *_NTSC_RATES]
_USUAL = 2e-4
# A frame that lasts for more than so many usual steps, and for longer than half a second, is a pause.
_PAUSE_STEPS = 5
_PAUSE = Fraction(1, 2)
# The deepest reordering that H.264 and HEVC allow.
_REORDER_DEPTH = 16


def find_constant_rate(
    pts: Sequence[int], time_base: Fraction, candidates: Iterable[Fraction | None]
) -> Fraction | None:
    """Returns the frame rate that explains every pts, or None when the rate varies.

    Args:
      pts: of all frames, ascending, in units of `time_base`.
      time_base: seconds.
      candidates: rates in frames per second to try, None and nonsense allowed; the rate of the median step
        and the mean rate are tried last, usual rates next to any of these (30000/1001 for 29.97) first.

    Returns:
      The first rate r such that pts k lies within rounding (one and a half ticks or milliseconds, and never
      more than a quarter of a frame) of pts 0 plus a whole number of frames, gaps being missing frames; at
      most one place in ten may be a gap. The last pts is not looked at: some recorders put it where the
      recording stopped.
    """
    if len(pts) > 2:
        pts = pts[:-1]
    if len(pts) < 2 or pts[-1] <= pts[0]:
        return next((rate for rate in candidates if rate), None)
    seconds = (np.asarray(pts, np.int64) - pts[0]) * float(time_base)
    mean = mean_rate(pts, time_base)
    step = int(np.median(np.diff(pts))) * time_base
    guesses = [*candidates, 1 / step if step else None, mean.limit_denominator(1001)]
    guesses = [Fraction(rate) for rate in guesses if rate and 0.1 < rate < 1000]
    usual = [rate for guess in guesses for rate in _USUAL_RATES if abs(rate / guess - 1) < _USUAL]
    for rate in (*usual, *guesses):
        place = seconds * float(rate)
        nearest = np.round(place)
        slack = min(max(1.5 * float(time_base), _ROUNDING) * float(rate), 0.25)
        is_on_grid = np.abs(place - nearest).max() <= slack
        if is_on_grid and (np.diff(nearest) >= 1).all() and nearest[-1] + 1 <= 1.1 * len(pts):
            return rate
    return None


def find_origin(start: Fraction, first: Fraction) -> Fraction:
    """Returns which time of the file's clock is 0.

    Args:
      start: when a file begins, in whole microseconds.
      first: when its picture begins.
    """
    if abs(first - start) < Fraction(1, 10**6):
        return first
    # Sound may begin before the clock's zero to be ready there; a picture does where the counter begins again.
    return start if start > 0 or first < 0 else Fraction(0)


def mean_rate(pts: Sequence[int], time_base: Fraction) -> Fraction | None:
    """Returns the frames per second of ascending pts, None if there are too few."""
    if len(pts) < 2 or pts[-1] == pts[0]:
        return None
    return Fraction(len(pts) - 1) / ((pts[-1] - pts[0]) * time_base)


def usual_step(pts: Sequence[int], time_base: Fraction) -> Fraction:
    """Returns the median number of seconds between ascending pts, at least one unit."""
    return max(1, int(np.median(np.diff(pts))) if len(pts) > 1 else 1) * time_base


def still_time(duration: Fraction, step: Fraction) -> Fraction:
    """Returns for how many seconds a picture stands that is shown for `duration`.

    Up to the next frame it moves, unless it is shown for so much longer than the usual `step` that it must have
    stood still (a recorder that paused, a screen on which nothing happened): then it moves in the last step.
    """
    return duration - step if duration > max(_PAUSE, _PAUSE_STEPS * step) else Fraction(0)


def restore_pts(frames: Iterable[tuple[int | None, _Item]]) -> Iterator[tuple[int | None, _Item]]:
    """Sorts the pts of frames that come in display order.

    Some files (VC-1 in ASF, certain H.264 recordings) store pts in decoding order. The decoder returns frames in
    display order, so it hands them out shuffled. The look-ahead is sixteen frames, the deepest reordering there is.
    Frames without a pts keep None.
    """
    waiting = collections.deque()
    known = []

    def emit():
        has_pts, item = waiting.popleft()
        return (heapq.heappop(known) if has_pts else None), item

    for pts, item in frames:
        waiting.append((pts is not None, item))
        if pts is not None:
            heapq.heappush(known, pts)
        if len(waiting) > _REORDER_DEPTH:
            yield emit()
    while waiting:
        yield emit()


class Clock:
    """Turns pts into strictly ascending times.

    At a constant rate times are whole frames after the first, so that rounding in the container does not
    return as jitter; a missing frame leaves its gap. Otherwise they are what the pts say. A frame without
    one comes one frame after its predecessor; a frame whose pts is not later comes one frame
    (constant rate) or one tick after it.

    Args:
      time_base: seconds per unit of pts.
      step: seconds from one frame to the next, at a varying rate usually.
      is_constant: whether `step` holds throughout.
      origin: time in seconds that becomes 0.
    """

    def __init__(self, time_base: Fraction, step: Fraction, is_constant: bool, origin: Fraction):
        self._time_base, self._step, self._is_constant, self._origin = time_base, step, is_constant, origin
        self._first = None
        self._last = None

    def time(self, pts: int | None) -> Fraction:
        """Returns the time of the next frame in seconds."""
        time = None if pts is None else pts * self._time_base - self._origin
        if self._last is None:
            self._first = self._last = time if time is not None else Fraction(0)
            return self._last
        if time is not None and self._is_constant:
            time = self._first + round((time - self._first) / self._step) * self._step
        if time is None or (time <= self._last and self._is_constant):
            time = self._last + self._step
        elif time <= self._last:
            time = self._last + self._time_base
        self._last = time
        return time
