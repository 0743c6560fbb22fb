"""Finds hard cuts in a video from small thumbnails of its frames.

A window that spans a cut asks the network to interpolate between two unrelated pictures, so windows are only
taken from inside scenes. The test is cheap and has to be right about ordinary footage, not about every edit:

* a cut changes the picture for good: the frames before and after it differ however they are paired, which a
  flash or a single damaged frame does not do;
* it changes the picture suddenly, in one step or two (frame rate conversion blends a frame across the cut):
  by several times more than the frames around it change, which fast motion and fades do not do;
* it changes the colours or the layout clearly: an absolute bound keeps noise in still scenes out.

Two pictures that are nothing like each other, however the one is moved over the other, have a cut between them
in any case: scenes of one or two frames follow each other too quickly for the first two signs.

A missed cut costs a few bad windows, a false one a few good windows; dissolves are not looked for.
"""

import itertools

import numpy as np
from PIL import Image

# Height and width of a thumbnail in pixels: small enough that ordinary motion moves things by less than a
# pixel.
THUMBNAIL_SIZE = (18, 32)
DEFAULT_THRESHOLD = 10.0
# How many times larger than the motion nearby a change must be.
_CONTRAST = 3.0
# How many times larger than the changes right beside it, which tell a cut from a short burst of motion.
_SPIKE = 2.0
# Frames on each side that tell how much motion is usual.
_NEIGHBOURS = 8
# Frames on each side that are compared across a cut; a flash of up to _REACH - 1 frames is no cut.
_REACH = 3
# Pictures are unlike below this correlation, if they also differ by twice the threshold. Neighbouring frames of 32
# real clips never fell below 0.66 where they differed by more than the threshold; frames of different clips lie
# at 0.31, nine of ten below 0.56.
_UNLIKE = 0.6
# How far, in pixels, one picture is moved over the other; and the contrast below which there is nothing to compare.
_MOVES = (4, 8)
_FLAT = 4.0
# Frames compared at a time, which bounds memory.
_CHUNK = 512
# Changes up to this, in 0..255, are repeated frames and say nothing about motion.
REPEATED = 0.25


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W, 3] averaged down to [*THUMBNAIL_SIZE, 3]."""
    height, width = THUMBNAIL_SIZE
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def find_cuts(
    thumbnails: np.ndarray, *, threshold: float = DEFAULT_THRESHOLD, is_flash_cut: bool = False
) -> list[int]:
    """Returns the frames at which a new scene begins, ascending; never 0.

    Args:
      thumbnails: uint8 [N, h, w, 3], RGB, every frame of a video reduced to about THUMBNAIL_SIZE.
      threshold: smallest change of the picture (mean absolute difference, 0..255) that can be a cut. Lower
        finds more cuts; 255 finds none.
      is_flash_cut: whether a flash of one or two frames is a scene of its own. For training, a flash is a change
        of light like any other. In an output, a frame mixed with a flash looks worse than a repeated one.

    Raises:
      ValueError: thumbnails of another shape, or a threshold that is not positive.
    """
    if thumbnails.ndim != 4 or thumbnails.shape[-1] != 3:
        raise ValueError(f"thumbnails have shape {thumbnails.shape}; they must be [N, h, w, 3]")
    if not threshold > 0:
        raise ValueError(f"threshold={threshold} must be positive")
    count = len(thumbnails)
    if count < 2:
        return []
    # step[i] is the change from frame i - 1 to frame i; step[0] is no change at all.
    step = np.zeros(count)
    for i in range(1, count, _CHUNK):
        step[i : i + _CHUNK] = frame_change(
            thumbnails[i - 1 : i - 1 + _CHUNK][: count - i], thumbnails[i : i + _CHUNK]
        )
    cuts = []
    for i in np.flatnonzero(step > threshold):
        if step[i] > 2 * threshold and is_unlike(thumbnails[i - 1], thumbnails[i]):
            cuts.append(int(i))
            continue
        if step[i] < _CONTRAST * _usual_change(step, i) or step[i] < _SPIKE * _change_beside(step, i):
            continue
        # Near another cut this is still right: the nearer pairs lie between the two cuts.
        before = thumbnails[max(0, i - _REACH) : i]
        after = thumbnails[i : i + _REACH]
        if is_flash_cut or frame_change(before[:, None], after[None]).min() > 0.5 * threshold:
            cuts.append(int(i))
    return cuts


def frame_change(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns how different uint8 thumbnails [..., h, w, 3] are, float64 [...] in 0..255; they may broadcast.

    The mean absolute difference says where things are, the distance of the sorted pixel values says which
    tones there are; a moving camera changes the first much and the second little, so the two are averaged.
    """
    layout = np.abs(first.astype(np.int16) - second).mean(axis=(-3, -2, -1))
    # The stable sort of bytes counts them, eight times as fast as the default.
    first, second = (
        np.sort(x.reshape(*x.shape[:-3], -1, 3), axis=-2, kind="stable") for x in (first, second)
    )
    tones = np.abs(first.astype(np.int16) - second).mean(axis=(-2, -1))
    return 0.5 * (layout + tones)


def is_unlike(first: np.ndarray, second: np.ndarray) -> bool:
    """Returns whether two thumbnails, uint8 [h, w, 3], show different things.

    They do if no way to move the one over the other makes their light and dark places agree. Without contrast in
    both nothing can be said, and they do not.
    """
    first, second = (x.astype(np.float32) for x in (first, second))
    if min(first.std((0, 1)).max(), second.std((0, 1)).max()) < _FLAT:
        return False
    height, width = first.shape[:2]
    for dy, dx in itertools.product(*(range(-most, most + 1) for most in _MOVES)):
        one = first[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        other = second[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
        one, other = one - one.mean((0, 1)), other - other.mean((0, 1))
        if (one * other).sum() > _UNLIKE * np.sqrt((one**2).sum() * (other**2).sum()):
            return False
    return True


def _usual_change(step: np.ndarray, i: int) -> float:
    """Returns the median change of the frames around `i` without `i` itself and without repeated frames."""
    around = np.concatenate([step[max(1, i - _NEIGHBOURS) : i], step[i + 1 : i + 1 + _NEIGHBOURS]])
    around = around[around > REPEATED]
    return float(np.median(around)) if len(around) else 0.0


def _change_beside(step: np.ndarray, i: int) -> float:
    """Returns the larger change next to step `i`, where one neighbour may belong to the same, blended cut."""
    left2, left, _, right, right2 = (step[k] if 0 < k < len(step) else 0.0 for k in range(i - 2, i + 3))
    return float(min(max(left, right), max(left, right2), max(left2, right)))


def scenes_between(cuts: list[int], num_frames: int) -> tuple[tuple[int, int], ...]:
    """Returns the (start, end) frame ranges, end not included, that `cuts` divide `num_frames` frames into."""
    edges = [0, *cuts, num_frames]
    return tuple((a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a)
