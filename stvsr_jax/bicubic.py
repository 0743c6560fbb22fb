"""Bicubic resizing as MATLAB's `imresize` defines it, in numpy.

This is the reduction that every published space-time super-resolution result is trained and measured on, so
the low-resolution frames have to come from exactly this filter:

* Keys' cubic with a = -0.5, widened by 1/scale when reducing (antialiasing);
* pixel centres at half-integers: output i looks at (i + 0.5)/scale - 0.5 of the input, centres at integers;
* the image continues by mirroring about its outer edge (.. x1 x0 | x0 x1 ..);
* the weights of each output are divided by their sum;
* an image of n pixels becomes ceil(n * scale) pixels.

Everything is a product with one small matrix per axis; `resize_weights` gives that matrix, also to those who
apply it in another array library. MATLAB itself rounds a uint8 image between its two passes; here the
rounding, if any, is done once at the end by `to_uint8`. Images of integers are summed in float64: at 1/2, 1/4
and 1/8 the weights are short binary fractions, so the sums are exact and do not depend on their order.
"""

import functools
import math

import numpy as np

# ceil(n * scale) must not be pushed up one by rounding: 10 * 1.1 is 11.000000000000002.
_CEIL_SLACK = 1e-9


def output_size(in_size: int, scale: float) -> int:
    """Returns ceil(in_size * scale), the number of pixels `in_size` pixels are resized to."""
    return math.ceil(in_size * scale - _CEIL_SLACK * max(1.0, in_size * scale))


def cubic(x: np.ndarray) -> np.ndarray:
    """Evaluates Keys' cubic kernel with a = -0.5 at `x` (any shape, in pixels); support is |x| < 2."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x <= 1.0, near, np.where(x <= 2.0, far, 0.0))


@functools.lru_cache(maxsize=512)
def resize_taps(in_size: int, out_size: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns which input pixels make each output pixel of one axis, and with which weights.

    Args:
      in_size: pixels before.
      out_size: pixels after; the grid is fixed by `scale` alone, so this only says how many of them are made.
      scale: output pixels per input pixel.

    Returns:
      indices: int64 [out_size, K], in [0, in_size); a pixel may occur twice where the border mirrors.
      weights: float64 [out_size, K], each row sums to 1. Both arrays are shared and read-only.
    """
    if in_size < 1 or out_size < 1:
        raise ValueError(f"in_size={in_size} and out_size={out_size} must be at least 1")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale={scale} must be positive and finite")
    stretch = max(1.0, 1.0 / scale)
    support = 4.0 * stretch
    centre = (np.arange(out_size) + 0.5) / scale - 0.5  # [out_size]
    first = np.floor(centre - support / 2).astype(np.int64)
    indices = first[:, None] + np.arange(math.ceil(support) + 2)  # [out_size, K]
    weights = cubic((centre[:, None] - indices) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    # Mirror about the outer edge, as often as it takes: the pattern 0..n-1, n-1..0 repeats every 2n.
    indices = np.mod(indices, 2 * in_size)
    indices = np.minimum(indices, 2 * in_size - 1 - indices)
    used = (weights != 0).any(axis=0)
    indices, weights = np.ascontiguousarray(indices[:, used]), np.ascontiguousarray(weights[:, used])
    indices.flags.writeable = weights.flags.writeable = False
    return indices, weights


@functools.lru_cache(maxsize=64)
def resize_weights(in_size: int, out_size: int, scale: float) -> np.ndarray:
    """Returns one axis of the resize as a read-only matrix, float64 [out_size, in_size]; see `resize_taps`."""
    indices, weights = resize_taps(in_size, out_size, scale)
    matrix = np.zeros((out_size, in_size))
    np.add.at(matrix, (np.arange(out_size)[:, None], indices), weights)
    matrix.flags.writeable = False
    return matrix


def imresize(
    image: np.ndarray,
    *,
    scale: float | tuple[float, float] | None = None,
    out_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Resizes the two axes before the last as MATLAB's `imresize(image, scale)` does, without rounding.

    Args:
      image: [..., H, W, C], uint8 or float.
      scale: output pixels per input pixel, one number or (y, x). By default out_size / (H, W).
      out_size: (H', W'). By default ceil(scale * (H, W)). With both given, `scale` places the grid and
        `out_size` says how many pixels of it are made.

    Returns:
      [..., H', W', C] in the input's units; float64 for float64, float32 for everything else. Values may
      leave the input's range: bicubic overshoots at edges.
    """
    if image.ndim < 3:
        raise ValueError(f"image has shape {image.shape}; it must be [..., H, W, C]")
    size = image.shape[-3:-1]
    scale, out_size = resolve_scale(size, scale, out_size)
    if image.dtype.kind in "biu":
        image, dtype = image.astype(np.float64), np.float32
    else:
        dtype = np.float64 if image.dtype == np.float64 else np.float32
        image = image.astype(dtype, copy=False)
    # The axis that shrinks most goes first: less is left for the other one.
    for axis in sorted((0, 1), key=lambda i: scale[i]):
        indices, weights = resize_taps(size[axis], int(out_size[axis]), float(scale[axis]))
        image = apply_taps(image, indices, weights, axis=axis - 3)
    return image.astype(dtype, copy=False)


def resolve_scale(
    size: tuple[int, int],
    scale: float | tuple[float, float] | None,
    out_size: tuple[int, int] | None,
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Returns (scale, out_size), each (y, x), filling in the one that is None from the other."""
    if scale is None and out_size is None:
        raise ValueError("imresize needs scale, out_size or both; got neither")
    if scale is None:
        scale = (out_size[0] / size[0], out_size[1] / size[1])
    scale = (scale, scale) if np.ndim(scale) == 0 else tuple(scale)
    if out_size is None:
        out_size = (output_size(size[0], scale[0]), output_size(size[1], scale[1]))
    return scale, tuple(out_size)


def apply_taps(image: np.ndarray, indices: np.ndarray, weights: np.ndarray, *, axis: int) -> np.ndarray:
    """Replaces `axis` of `image` by weighted sums of its pixels.

    Args:
      image: float [..., n, ...].
      indices: int [m, K], in [0, n).
      weights: float [m, K].
      axis: which axis of `image`, negative: counted from the end.

    Returns:
      float [..., m, ...], the dtype of `image`.
    """
    weights = weights.astype(image.dtype).reshape(weights.shape + (1,) * (-axis - 1))
    result = weights[:, 0] * np.take(image, indices[:, 0], axis=axis)
    for k in range(1, indices.shape[1]):
        result += weights[:, k] * np.take(image, indices[:, k], axis=axis)
    return result


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Clamps a float image in units of 0..255 and rounds it to uint8, halves upwards as MATLAB does.

    (`np.round` sends halves to the nearest even number instead: 0.5 -> 0, 2.5 -> 2.)
    """
    return np.floor(np.clip(image, 0.0, 255.0) + 0.5).astype(np.uint8)
