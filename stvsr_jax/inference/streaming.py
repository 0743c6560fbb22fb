"""Which windows of input frames to run, and which of their outputs to keep.

With K outputs per input frame (`time`), N frames become K N: at every frame and at the K - 1 instants between
it and the next. The last frame of a clip has no next one and is shown K times, so that the output lasts as
long as the input; so has the last frame before a scene cut, so that nothing is interpolated across it.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any


@dataclasses.dataclass(frozen=True)
class Window:
    """One run of a network.

    Attributes:
      start: index in the clip of the first frame.
      frames: the window's frames; a scene shorter than the window repeats its last one.
      times: instants to keep, ascending, in frames after the first.
      hold: how many more times the last of them is shown.
    """

    start: int
    frames: tuple[Any, ...]
    times: tuple[Fraction, ...]
    hold: int


def plan_windows(
    frames: Iterable[tuple[Any, bool]], *, size: int, time: int, keep_earlier: bool = True
) -> Iterator[Window]:
    """Cuts a stream into windows that share one frame with the one before.

    A scene's last window is aligned to its end and overlaps more, so no frame is lost.

    Args:
      frames: (frame, whether it is the last of its scene), in order; the clip's last frame has to be marked.
      size: frames of a window, at least 2.
      time: outputs per input frame.
      keep_earlier: whether a frame in two windows is taken from the earlier one (as Zooming Slow-Mo is
        evaluated) or from the later one (as VideoINR is: t = 0 is kept and t = 1 dropped).

    Yields:
      Windows whose kept outputs, in order, are the output video; no look-ahead, at most `size` frames held.

    Raises:
      ValueError: `size` or `time` is too small.
    """
    if size < 2 or time < 1:
        raise ValueError(f"size={size} must be at least 2 and time={time} at least 1")
    recent = collections.deque(maxlen=size)
    seen = fresh = next_tick = 0  # frames of this scene; those not in a window yet; outputs of it so far
    for index, (frame, is_last) in enumerate(frames):
        recent.append(frame)
        seen += 1
        fresh += 1
        is_first_window = fresh == seen
        if not is_last and fresh < (size if is_first_window else size - 1):
            continue
        first = seen - len(recent)  # place of recent[0] in the scene
        end_tick = (seen - 1) * time + (1 if is_last or keep_earlier else 0)
        yield Window(
            start=index - len(recent) + 1,
            frames=tuple(recent) + (frame,) * (size - len(recent)),
            times=tuple(Fraction(tick, time) - first for tick in range(next_tick, end_tick)),
            hold=time - 1 if is_last else 0,
        )
        next_tick, fresh = end_tick, 0
        if is_last:
            recent.clear()
            seen = next_tick = 0
