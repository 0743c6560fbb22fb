"""Which output frames there are, when each is shown and which instant of the input it shows.

Either every input frame makes K outputs, which divide its duration equally, or outputs come at a fixed rate from
the first frame on. Nothing is interpolated across a scene end: the scene's last frame is held. A frame that
pauses is held, too, until one usual step before the next. Repeated frames
(bit for bit the same picture) are taken for one that stands still, so a static picture stays exactly static
and a duplicate is never computed; the motion after it is interpolated in the last repetition's time alone.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np

from stvsr_jax.video.sequential_reader import TimedFrame


@dataclasses.dataclass(frozen=True)
class Moment:
    """One output frame of an input frame.

    Attributes:
      offset: the instant to render, in frames after the input frame, [0, 1).
      time: when it is shown, seconds.
      duration: for how long, seconds.
    """

    offset: Fraction
    time: Fraction
    duration: Fraction


def divide(frame: TimedFrame, count: int) -> list[Moment]:
    """Returns `count` moments that divide a frame's duration, or what follows a pause in it, equally."""
    step = (frame.duration - frame.still) / count
    first = Moment(Fraction(0), frame.time, frame.still + step)
    start = frame.time + frame.still
    return [first, *(Moment(Fraction(k, count), start + k * step, step) for k in range(1, count))]


def sample(frame: TimedFrame, fps: Fraction, start: Fraction) -> list[Moment]:
    """Returns the moments `start` + n / `fps` that lie in a frame's duration, its end not included."""
    first = math.ceil((frame.time - start) * fps)
    end = math.ceil((frame.time + frame.duration - start) * fps)
    times = [start + n / fps for n in range(first, end)]
    start, step = frame.time + frame.still, frame.duration - frame.still
    return [Moment(max(time - start, Fraction(0)) / step, time, 1 / fps) for time in times]


def plan_moments(
    frames: Iterable[tuple[TimedFrame, bool]], *, time: int = 1, fps: Fraction | None = None
) -> Iterator[tuple[TimedFrame, list[Moment], bool]]:
    """Gives each different frame its moments.

    Args:
      frames: (frame, whether it is the last of its scene), in order; the clip's last frame has to be marked.
      time: outputs per input frame, without `fps`.
      fps: outputs per second.

    Yields:
      (frame, moments, whether it is the last of its scene), repeated frames once.
    """
    start = None
    current, still, moving = None, [], []  # moments of which the picture is settled, and of the latest repeat
    for frame, is_last in frames:
        start = frame.time if start is None else start
        if current is not None and not np.array_equal(current.image, frame.image):
            yield current, still + moving, False
            current, still, moving = None, [], []
        current = current or frame
        still += map(_hold, moving)
        moving = divide(frame, time) if fps is None else sample(frame, fps, start)
        if is_last:
            yield current, still + [_hold(moment) for moment in moving], True
            current, still, moving = None, [], []


def _hold(moment: Moment) -> Moment:
    return dataclasses.replace(moment, offset=Fraction(0))
