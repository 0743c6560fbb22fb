"""Makes crops of reduced frames from crops of the frames themselves.

The published data sets reduce whole frames and crop afterwards. Here only the pixels that the crop depends on are read. The
weights are the same as for the whole frame, mirrored borders included, so the result equals the crop of the reduced frame.
Sums are in float64, see `bicubic`.
"""

import dataclasses

import numpy as np

from stvsr_jax import bicubic

# Outputs of an axis that are made by one matrix product. Each depends on a few pixels only, so the product of
# the whole axis would be zeros for the most part.
_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class ReducedSpan:
    """A run of pixels of one reduced axis.

    Attributes:
      start, stop: the pixels of the full axis it depends on, stop not included.
      blocks: (first, weights) of each _BLOCK pixels in turn: they are the products of the float64 weights
        [at most _BLOCK, n] with the n pixels from start + first on.
    """

    start: int
    stop: int
    blocks: tuple[tuple[int, np.ndarray], ...]

    def __len__(self) -> int:
        return sum(len(weights) for _, weights in self.blocks)


def reduced_span(size: int, reduce: float, first: int, length: int) -> ReducedSpan:
    """Returns how to make `length` pixels from `first` on of an axis of `size` pixels, reduced.

    Raises:
      ValueError: the reduced axis has no such pixels.
    """
    reduced = bicubic.output_size(size, 1.0 / reduce)
    if first < 0 or length < 1 or first + length > reduced:
        raise ValueError(
            f"pixels {first} to {first + length - 1} were asked for, "
            f"but {size} pixels reduced by {reduce} are {reduced}"
        )
    indices, weights = bicubic.resize_taps(size, reduced, 1.0 / reduce)
    return _make_span(indices[first : first + length], weights[first : first + length])


def whole_span(size: int, reduce: float, length: int) -> ReducedSpan:
    """Returns how `length` pixels are made of an axis of `size` pixels that has nothing beyond its ends."""
    return _make_span(*bicubic.resize_taps(size, length, 1.0 / reduce))


def _make_span(indices: np.ndarray, weights: np.ndarray) -> ReducedSpan:
    start = int(indices.min())
    blocks = []
    for i in range(0, len(indices), _BLOCK):
        taps = indices[i : i + _BLOCK]
        first = int(taps.min())
        matrix = np.zeros((len(taps), int(taps.max()) + 1 - first))
        np.add.at(matrix, (np.arange(len(taps))[:, None], taps - first), weights[i : i + _BLOCK])
        blocks.append((first - start, matrix))
    return ReducedSpan(start, int(indices.max()) + 1, tuple(blocks))


def enclosing(*spans: ReducedSpan) -> tuple[int, int]:
    """Returns the (start, stop) that holds all pixels that `spans` depend on."""
    return min(span.start for span in spans), max(span.stop for span in spans)


def reduce_crop(
    frames: np.ndarray, rows: ReducedSpan, columns: ReducedSpan, *, origin: tuple[int, int], quantize: bool
) -> np.ndarray:
    """Makes a crop of the reduced frames from a part of the full ones.

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
    lines = frames.reshape(n, h, w * channels)
    reduced = np.empty((n, len(rows), w * channels))
    done = 0
    for first, weights in rows.blocks:
        count, taps = weights.shape
        np.matmul(
            weights, lines[:, first : first + taps].astype(np.float64), out=reduced[:, done : done + count]
        )
        done += count
    # x comes last, so that each block is one product for all frames, rows and channels.
    reduced = reduced.reshape(n, len(rows), w, channels).swapaxes(2, 3).reshape(-1, w)
    result = np.concatenate(
        [reduced[:, first : first + weights.shape[1]] @ weights.T for first, weights in columns.blocks],
        axis=1,
    )
    result = result.astype(np.float32).reshape(n, len(rows), channels, len(columns)).swapaxes(2, 3)
    return to_unit(np.ascontiguousarray(result), quantize=quantize)


def to_unit(image: np.ndarray, *, quantize: bool) -> np.ndarray:
    """Turns float32 [..., C] in 0..255 into float32 in [0, 1], rounded to 8 bits or only clamped."""
    image = bicubic.to_uint8(image) if quantize else np.clip(image, 0.0, 255.0)
    return image.astype(np.float32) / np.float32(255.0)
