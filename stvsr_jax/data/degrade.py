"""Makes crops of reduced frames from crops of the frames themselves.

The published data sets reduce whole frames and crop afterwards. Only the crop is wanted here, so only the
pixels that it depends on are read; since the weights are those of the whole frame, its mirrored borders
included, the result is the crop of the reduced frame exactly. Sums are in float64, see `bicubic`.
"""

import dataclasses

import numpy as np

from stvsr_jax import bicubic


@dataclasses.dataclass(frozen=True)
class ReducedSpan:
    """A run of pixels of one reduced axis.

    Attributes:
      start, stop: the pixels of the full axis it depends on, stop not included.
      weights: float64 [length, stop - start], what each of them contributes.
    """

    start: int
    stop: int
    weights: np.ndarray


def reduced_span(size: int, reduce: float, first: int, length: int) -> ReducedSpan:
    """Return how `length` pixels from `first` on of an axis of `size` pixels, reduced, are made."""
    reduced = bicubic.output_size(size, 1.0 / reduce)
    if first < 0 or length < 1 or first + length > reduced:
        raise ValueError(
            f"pixels {first} to {first + length - 1} were asked for, "
            f"but {size} pixels reduced by {reduce} are {reduced}"
        )
    indices, weights = bicubic.resize_taps(size, reduced, 1.0 / reduce)
    indices, weights = indices[first : first + length], weights[first : first + length]
    start, stop = int(indices.min()), int(indices.max()) + 1
    matrix = np.zeros((length, stop - start))
    np.add.at(matrix, (np.arange(length)[:, None], indices - start), weights)
    return ReducedSpan(start, stop, matrix)


def enclosing(*spans: ReducedSpan) -> tuple[int, int]:
    """Return the (start, stop) that holds all pixels that `spans` depend on."""
    return min(span.start for span in spans), max(span.stop for span in spans)


def reduce_crop(
    frames: np.ndarray, rows: ReducedSpan, columns: ReducedSpan, *, origin: tuple[int, int], quantize: bool
) -> np.ndarray:
    """Make a crop of the reduced frames from a part of the full ones.

    Args:
      frames: uint8 [N, h, w, 3], the part that starts at `origin` and covers `rows` and `columns`.
      rows, columns: which pixels of the reduced frames to make.
      origin: (y, x) of the first pixel of `frames` in the full frame.
      quantize: round to 8 bits, as frames stored in files are.

    Returns:
      float32 [N, len(rows), len(columns), 3] in [0, 1].
    """
    y, x = origin
    frames = frames[:, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    n, h, w, channels = frames.shape
    reduced = np.matmul(rows.weights, frames.astype(np.float64).reshape(n, h, w * channels))
    reduced = np.matmul(columns.weights, reduced.reshape(n, -1, w, channels)).astype(np.float32)
    return to_unit(reduced, quantize=quantize)


def to_unit(image: np.ndarray, *, quantize: bool) -> np.ndarray:
    """Turn float32 values in 0..255 into float32 in [0, 1], rounded to 8 bits or only clamped."""
    image = bicubic.to_uint8(image) if quantize else np.clip(image, 0.0, 255.0)
    return image.astype(np.float32) / np.float32(255.0)
