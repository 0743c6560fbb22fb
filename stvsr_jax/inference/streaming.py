"""Which windows of input frames to run, and which of their outputs to keep."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from stvsr_jax.inference.moments import Moment


@dataclasses.dataclass(frozen=True)
class Window:
    """One run of a network.

    Attributes:
      frames: the window's frames; a scene shorter than the window repeats its last one.
      outputs: what to keep, in order: the instant in frames after the first, and the moment it is for. An
        instant comes several times where a frame is held.
    """

    frames: tuple[Any, ...]
    outputs: tuple[tuple[Fraction, Moment], ...]

    @property
    def times(self) -> tuple[Fraction, ...]:
        """The different instants of `outputs`, ascending."""
        return tuple(dict.fromkeys(instant for instant, _ in self.outputs))


def plan_windows(
    frames: Iterable[tuple[Any, Sequence[Moment], bool]], *, size: int, keep_earlier: bool = True
) -> Iterator[Window]:
    """Cuts a stream into windows that share one frame with the one before.

    A scene's last window is aligned to its end and overlaps more, so no frame is lost. Windows of which
    nothing is kept (the output has fewer frames than the input) are left out.

    Args:
      frames: (frame, its moments, whether it is the last of its scene), see `moments.plan_moments`.
      size: frames of a window, at least 2.
      keep_earlier: whether a frame in two windows is taken from the earlier one, otherwise from the later one.

    Yields:
      Windows whose outputs, in order, are the output video; no look-ahead, at most `size` frames held.

    Raises:
      ValueError: `size` is too small.
    """
    if size < 2:
        raise ValueError(f"size={size} must be at least 2")
    recent = collections.deque(maxlen=size)
    pending = []  # (instant in frames after the scene's first, moment) not in a window yet
    seen = fresh = 0  # frames of this scene; those not in a window yet
    for frame, moments, is_last in frames:
        pending += [(seen + moment.offset, moment) for moment in moments]
        recent.append(frame)
        seen += 1
        fresh += 1
        is_first_window = fresh == seen
        if not is_last and fresh < (size if is_first_window else size - 1):
            continue
        first, last = seen - len(recent), seen - 1  # places of the window's ends in the scene
        count = sum(is_last or instant < last or (keep_earlier and instant == last) for instant, _ in pending)
        outputs = tuple((instant - first, moment) for instant, moment in pending[:count])
        if outputs:
            yield Window(tuple(recent) + (frame,) * (size - len(recent)), outputs)
        del pending[:count]
        fresh = 0
        if is_last:
            recent.clear()
            seen = 0
