"""What a clip is: frames to be read at random, and the scenes they fall into."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Clip(Protocol):
    """A video as the rest of the package sees it.

    Implementations are picklable and may be read by many threads at once.

    Attributes:
      name: unique among the clips opened together, for messages and results.
      num_frames, height, width: in frames and pixels.
      scenes: (start, end) frame ranges, end not included, ascending and disjoint, with no cut inside. They
        need not cover every frame: `restrict` takes frames away.
    """

    name: str
    num_frames: int
    height: int
    width: int
    scenes: tuple[tuple[int, int], ...]

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB, in the order of `indices`.

        Args:
          indices: frame numbers, 0 <= i < num_frames, in any order; repeats are allowed.
          crop: (top, left, height, width) in pixels; by default the whole frame.
        """


def check_read(clip: Clip, indices: Sequence[int], crop: tuple[int, int, int, int] | None) -> None:
    """Raises ValueError unless `clip` has these frames and this part of them."""
    wrong = [i for i in indices if not 0 <= i < clip.num_frames]
    if wrong or not len(indices):
        raise ValueError(
            f"{clip.name} was asked for frames {list(indices)}; give at least one, 0 <= i < {clip.num_frames}"
        )
    if crop is None:
        return
    top, left, height, width = crop
    fits = 0 <= top and 0 <= left and top + height <= clip.height and left + width <= clip.width
    if not fits or height < 1 or width < 1:
        raise ValueError(
            f"{clip.name} was asked for crop (top, left, height, width) = {tuple(crop)}; "
            f"it must lie inside its {clip.height} x {clip.width} (height x width) pixels"
        )


def describe(clips: Sequence[Clip]) -> str:
    """Returns one line about `clips`: how many, how long, which sizes."""
    frames = sum(end - start for clip in clips for start, end in clip.scenes)
    scenes = sum(len(clip.scenes) for clip in clips)
    shown = [f"{clip.name} {clip.width}x{clip.height}" for clip in clips[:4]]
    if len(clips) > len(shown):
        shown.append(f"and {len(clips) - len(shown):,} more")
    counts = f"{_count(len(clips), 'clip')}, {_count(frames, 'frame')}, {_count(scenes, 'scene')}"
    return f"{counts}: {', '.join(shown)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
