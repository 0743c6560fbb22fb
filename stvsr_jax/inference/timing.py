"""When frames are shown: constant rate or not, and time stamps that can be trusted. Times are seconds."""

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
# The deepest reordering that H.264 and HEVC allow.
_REORDER_DEPTH = 16


def find_constant_rate(
    stamps: Sequence[int], time_base: Fraction, candidates: Iterable[Fraction | None]
) -> Fraction | None:
    """Returns the frame rate that explains every time stamp, or None when the rate varies.

    Args:
      stamps: ascending time stamps of all frames in units of `time_base`.
      time_base: seconds.
      candidates: rates in frames per second to try, None and nonsense allowed; the rate of the median step
        and the mean rate are tried last, usual rates next to any of these (30000/1001 for 29.97) first.

    Returns:
      The first rate r such that stamp k lies within rounding (one and a half ticks or milliseconds, and never
      more than a quarter of a frame) of stamp 0 plus a whole number of frames, gaps being missing frames; at
      most one place in ten may be a gap. The last stamp is not looked at: some recorders put it where the
      recording stopped.
    """
    if len(stamps) > 2:
        stamps = stamps[:-1]
    if len(stamps) < 2 or stamps[-1] <= stamps[0]:
        return next((rate for rate in candidates if rate), None)
    seconds = (np.asarray(stamps, np.int64) - stamps[0]) * float(time_base)
    mean = Fraction(len(stamps) - 1) / ((stamps[-1] - stamps[0]) * time_base)
    step = int(np.median(np.diff(stamps))) * time_base
    guesses = [*candidates, 1 / step if step else None, mean.limit_denominator(1001)]
    guesses = [Fraction(rate) for rate in guesses if rate and 0.1 < rate < 1000]
    usual = [rate for guess in guesses for rate in _USUAL_RATES if abs(rate / guess - 1) < _USUAL]
    for rate in (*usual, *guesses):
        place = seconds * float(rate)
        nearest = np.round(place)
        slack = min(max(1.5 * float(time_base), _ROUNDING) * float(rate), 0.25)
        is_on_grid = np.abs(place - nearest).max() <= slack
        if is_on_grid and (np.diff(nearest) >= 1).all() and nearest[-1] + 1 <= 1.1 * len(stamps):
            return rate
    return None


def restore_stamps(frames: Iterable[tuple[int | None, _Item]]) -> Iterator[tuple[int | None, _Item]]:
    """Gives frames that come in display order their time stamps in ascending order.

    Some files (VC-1 in ASF, certain H.264 recordings) store the time stamps in decoding order, so that the
    decoder, which returns frames in display order, hands them out shuffled. Sixteen frames, the deepest
    reordering there is, are looked ahead. Frames without a stamp keep None.
    """
    waiting = collections.deque()
    stamps = []

    def emit():
        has_stamp, item = waiting.popleft()
        return (heapq.heappop(stamps) if has_stamp else None), item

    for stamp, item in frames:
        waiting.append((stamp is not None, item))
        if stamp is not None:
            heapq.heappush(stamps, stamp)
        if len(waiting) > _REORDER_DEPTH:
            yield emit()
    while waiting:
        yield emit()


class Clock:
    """Turns time stamps into strictly ascending times.

    At a constant rate times are whole frames after the first, so that rounding in the container does not
    return as jitter; a missing frame leaves its gap. Otherwise they are what the stamps say. A frame without
    a stamp comes one frame after its predecessor; one with a stamp that is not later comes one frame
    (constant rate) or one tick after it.

    Args:
      time_base: seconds per stamp.
      rate: frames per second, used for frames without stamps.
      is_constant: whether `rate` holds throughout.
      origin: time in seconds that becomes 0.
    """

    def __init__(self, time_base: Fraction, rate: Fraction, is_constant: bool, origin: Fraction):
        self._time_base, self._rate, self._is_constant, self._origin = time_base, rate, is_constant, origin
        self._first = None
        self._last = None

    def time(self, stamp: int | None) -> Fraction:
        """Returns the time of the next frame in seconds."""
        time = None if stamp is None else stamp * self._time_base - self._origin
        if self._last is None:
            self._first = self._last = time if time is not None else Fraction(0)
            return self._last
        if time is not None and self._is_constant:
            time = self._first + round((time - self._first) * self._rate) / self._rate
        if time is None or (time <= self._last and self._is_constant):
            time = self._last + 1 / self._rate
        elif time <= self._last:
            time = self._last + self._time_base
        self._last = time
        return time
