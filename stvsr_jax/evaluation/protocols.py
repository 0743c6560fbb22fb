"""Evaluation protocols: which frames of a clip are given, which are scored, how scores are averaged.

Published numbers mix these, and they differ by more than the networks do:

zsm      (Zooming Slow-Mo, CVPR 2020) windows of 4 given and 7 scored frames that share one; of a shared frame
         the first prediction counts; the incomplete tail is left out. 8-bit low resolution, predictions
         clamped and rounded to 8 bits. Mean over the frames of a clip, then over clips.
full     zsm with a last window aligned to the end of the clip, so that every frame is scored.
average  (VideoINR, CVPR 2022) frames i and i + 8 given, i to i + 7 scored, windows side by side. Low
         resolution and predictions in float, neither clamped nor rounded. Mean over the windows of all clips.
center   average, with frames i (given) and i + 4 scored: what published tables call Center.
middle   average, with only the frame in the middle, i + 4, scored.
v3_average, v3_center  (V3, ICLR 2026) average and center with predictions clamped and rounded to 8 bits; low
         resolution stays float.
grid_tT_sS  average, with T frames from one given frame to the next and S times the size; the ground truth is
         cropped to multiples of 12, so that every S sees the same pixels.

Everything here is a function of lengths alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from fractions import Fraction

_GRID_TIMES = (6, 8, 12, 16)
_GRID_SPACES = (4, 6, 12)


@dataclasses.dataclass(frozen=True)
class Window:
    """One run of a network.

    Attributes:
      inputs: indexes of the given frames in the clip, evenly spaced, at least two.
      scored: indexes of the frames whose prediction counts, ascending, from the first to the last input.
    """

    inputs: tuple[int, ...]
    scored: tuple[int, ...]

    @property
    def times(self) -> tuple[Fraction, ...]:
        """Instants of the scored frames, in given frames after the first."""
        stride = self.inputs[1] - self.inputs[0]
        return tuple(Fraction(index - self.inputs[0], stride) for index in self.scored)


def plan_chain(length: int, *, count: int, stride: int, align_end: bool) -> tuple[Window, ...]:
    """Covers a clip with windows that share one frame with the one before; its first prediction counts.

    Args:
      length: frames of the clip.
      count: given frames of a window, `stride` apart.
      stride: frames from one given frame to the next.
      align_end: add a last window that ends with the clip if frames are left over.

    Returns:
      Windows; none if the clip is too short for one.
    """
    span = (count - 1) * stride
    starts = list(range(0, length - span, span))
    if align_end and starts and starts[-1] + span < length - 1:
        starts.append(length - 1 - span)
    windows, done = [], 0
    for start in starts:
        windows.append(
            Window(tuple(range(start, start + span + 1, stride)), tuple(range(done, start + span + 1)))
        )
        done = start + span + 1
    return tuple(windows)


def plan_pairs(length: int, *, gap: int, offsets: Sequence[int]) -> tuple[Window, ...]:
    """Covers a clip with windows of two given frames, side by side.

    Args:
      length: frames of the clip.
      gap: frames from the first given frame to the second, which is the first of the next window.
      offsets: which frames are scored, counted from the first given one, all below `gap`.

    Returns:
      Windows; none if the clip is too short for one.
    """
    return tuple(
        Window((start, start + gap), tuple(start + offset for offset in offsets))
        for start in range(0, length - gap, gap)
    )


def split_window(window: Window, size: int) -> tuple[Window, ...]:
    """Cuts a window for a network that takes at most `size` frames; the first prediction of a frame counts.

    Raises:
      ValueError: the window cannot be cut into pieces of that size that share one frame.
    """
    count = len(window.inputs)
    if count <= size:
        return (window,)
    if (count - 1) % (size - 1):
        raise ValueError(
            f"a window of {count} given frames cannot be cut into windows of {size} that share one"
        )
    pieces, done = [], -1
    for first in range(0, count - 1, size - 1):
        inputs = window.inputs[first : first + size]
        scored = tuple(index for index in window.scored if done < index <= inputs[-1])
        if scored:
            pieces.append(Window(inputs, scored))
        done = inputs[-1]
    return tuple(pieces)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is measured, and how.

    Attributes:
      name: a key of `PROTOCOLS`.
      plan: from a clip's number of frames to its windows.
      shortest: frames that a clip needs.
      rounded: predictions are clamped and rounded to 8 bits; otherwise they stay float.
      has_8_bit_input: low resolution is rounded to 8 bits, too.
      average: 'clip', the mean over clips of the means over their frames, or 'window', over windows of all clips.
      space: times by which frames are enlarged.
      multiple: the ground truth is cropped to multiples of this.
    """

    name: str
    plan: Callable[[int], tuple[Window, ...]]
    shortest: int
    rounded: bool
    has_8_bit_input: bool
    average: str
    space: int = 4
    multiple: int = 4


def frame_weights(average: str, frame_counts: Sequence[int]) -> list[float]:
    """Returns how much one frame of each clip counts; over all frames the weights sum to 1.

    Args:
      average: 'clip' or 'window', see `Protocol`.
      frame_counts: scored frames of each clip. Windows have equally many, so their mean is that over frames.
    """
    if average == "clip":
        return [1.0 / (len(frame_counts) * count) for count in frame_counts]
    return [1.0 / sum(frame_counts)] * len(frame_counts)


def _pairs(name, gap, offsets, *, rounded=False, **fields):
    plan = functools.partial(plan_pairs, gap=gap, offsets=tuple(offsets))
    shared = {"shortest": gap + 1, "has_8_bit_input": False, "average": "window"}
    return Protocol(name, plan, rounded=rounded, **shared, **fields)


def _chain(name, align_end):
    plan = functools.partial(plan_chain, count=4, stride=2, align_end=align_end)
    return Protocol(name, plan, shortest=7, rounded=True, has_8_bit_input=True, average="clip")


_ALL = [
    _chain("zsm", align_end=False),
    _chain("full", align_end=True),
    _pairs("center", 8, [0, 4]),
    _pairs("middle", 8, [4]),
    _pairs("average", 8, range(8)),
    _pairs("v3_center", 8, [0, 4], rounded=True),
    _pairs("v3_average", 8, range(8), rounded=True),
    *(
        _pairs(f"grid_t{time}_s{space}", time, range(time), space=space, multiple=max(_GRID_SPACES))
        for time in _GRID_TIMES
        for space in _GRID_SPACES
    ),
]
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}


def find_protocol(name: str) -> Protocol:
    """Returns a protocol by name.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is not one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
