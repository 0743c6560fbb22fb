"""Random choices about a training sample, made by a numpy Generator, and the augmentation they ask for."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Which symmetries to apply: mirror left-right, upside-down, swap y and x, play backwards."""

    flip_x: bool = False
    flip_y: bool = False
    transpose: bool = False
    reverse_time: bool = False


def draw_augmentation(rng: np.random.Generator, *, reverse_time: bool) -> Augmentation:
    """Draws each symmetry with probability 1/2; backwards only if `reverse_time` allows it."""
    flip_x, flip_y, transpose, reverse = (bool(bit) for bit in rng.integers(0, 2, size=4))
    return Augmentation(
        flip_x=flip_x, flip_y=flip_y, transpose=transpose, reverse_time=reverse and reverse_time
    )


def draw_times(rng: np.random.Generator, window: int, count: int) -> np.ndarray:
    """Draws `count` different frame positions out of `window`, ascending, int64 [count]."""
    return np.sort(rng.choice(window, size=count, replace=False))


def draw_corner(rng: np.random.Generator, size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Draws the (top, left) of a (height, width) crop from all that fit into `size`."""
    return int(rng.integers(size[0] - crop[0] + 1)), int(rng.integers(size[1] - crop[1] + 1))


def centre_corner(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Returns the (top, left) of the crop in the middle of `size`."""
    return (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2


def augment(sample: dict[str, np.ndarray], augmentation: Augmentation) -> dict[str, np.ndarray]:
    """Applies `augmentation` to a sample.

    Args:
      sample: frames [N, h, w, 3], target [T, H, W, 3], times [T] in [0, 1] ascending.
      augmentation: what to do; the transpose comes after the flips.

    Returns:
      The same keys. Backwards, instant t becomes 1 - t and all orders are reversed, so times still ascend.
    """
    result = dict(sample)
    for key in ("frames", "target"):
        images = result[key]
        if augmentation.flip_x:
            images = images[:, :, ::-1]
        if augmentation.flip_y:
            images = images[:, ::-1]
        if augmentation.transpose:
            images = images.swapaxes(1, 2)
        if augmentation.reverse_time:
            images = images[::-1]
        result[key] = np.ascontiguousarray(images)
    if augmentation.reverse_time:
        result["times"] = 1.0 - sample["times"][::-1]
    return result
