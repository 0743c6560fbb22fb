"""Divides clips into a part to train on and a part to validate on, with no frame in both."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from stvsr_jax.data.clip import Clip


@dataclasses.dataclass(frozen=True)
class RestrictedClip:
    """A clip of which only the frames in `scenes` may be used. Frame numbers stay those of the clip."""

    clip: Clip
    scenes: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        return self.clip.name

    @property
    def num_frames(self) -> int:
        return self.clip.num_frames

    @property
    def height(self) -> int:
        return self.clip.height

    @property
    def width(self) -> int:
        return self.clip.width

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB; see `clip.Clip`."""
        return self.clip.read(indices, crop)


def restrict(clip: Clip, start: int, end: int) -> RestrictedClip:
    """Returns `clip` with only the frames start .. end - 1 left in its scenes."""
    scenes = tuple((max(a, start), min(b, end)) for a, b in clip.scenes if min(b, end) > max(a, start))
    return RestrictedClip(clip, scenes)


def split_by_time(clips: Sequence[Clip], *, fraction: float, span: int = 1) -> tuple[list[Clip], list[Clip]]:
    """Keeps the end of every clip for validation.

    Args:
      clips: what to split.
      fraction: how much of each clip's frames is for validation, 0 < fraction < 1.
      span: frames in a window. A clip whose end would be too short for one gives up `span` frames instead,
        and if fewer than that would be left to train on, all of it is trained on.

    Returns:
      (training, validation) clips; a clip that has nothing for one of them is not in it.
    """
    _check_fraction(fraction)
    training, validation = [], []
    for clip in clips:
        kept = max(round(fraction * clip.num_frames), span)
        if clip.num_frames - kept < span:
            training.append(clip)
            continue
        boundary = clip.num_frames - kept
        training.append(restrict(clip, 0, boundary))
        validation.append(restrict(clip, boundary, clip.num_frames))
    return [c for c in training if c.scenes], [c for c in validation if c.scenes]


def split_by_clip(clips: Sequence[Clip], *, fraction: float) -> tuple[list[Clip], list[Clip]]:
    """Keeps whole clips, evenly spaced in the list, for validation; both parts get at least one.

    Raises:
      ValueError: fewer than two clips.
    """
    _check_fraction(fraction)
    if len(clips) < 2:
        raise ValueError(f"{len(clips)} clip cannot be split by clip; split it by time, or add clips")
    count = min(max(1, round(fraction * len(clips))), len(clips) - 1)
    chosen = {int((i + 0.5) * len(clips) / count) for i in range(count)}
    training = [clip for i, clip in enumerate(clips) if i not in chosen]
    return training, [clip for i, clip in enumerate(clips) if i in chosen]


SPLITS = {"time": split_by_time, "clip": split_by_clip}


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} must be between 0 and 1, neither included")
