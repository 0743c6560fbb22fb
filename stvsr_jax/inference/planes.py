"""RGB to the planes that a video encoder takes, in the program that renders: half the bytes leave the device.

Limited range, 8 to 16 bits, from the network's numbers with one rounding; the host's way (`video.colour`) rounds to RGB
first, and lies at most one level away. Halved chroma is sited where readers take it to be (MPEG-2's and H.264's
default): on the left of its two columns, and between its two rows. The kernel is FFmpeg's bicubic one, stretched.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from av import VideoFormat

# Weights of red and blue in luma, by matrix (ISO/IEC 23091-2).
_LUMA = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """What planes are made of.

    Attributes:
      matrix: coefficients, a code point of ISO/IEC 23091-2.
      bits: of a sample.
      subsampling: luma rows and columns for each sample of chroma, 1 or 2.
    """

    matrix: int
    bits: int
    subsampling: tuple[int, int]

    @property
    def dtype(self) -> np.dtype:
        """Of the planes' samples."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)


def layout_of(pixel_format: str, matrix: int) -> Layout | None:
    """Return the layout of one of FFmpeg's pixel formats, None where it is not of three planes of YCbCr.

    Args:
      pixel_format: FFmpeg's name.
      matrix: coefficients, a code point of ISO/IEC 23091-2.
    """
    described = VideoFormat(pixel_format)
    kinds = described.components
    # Each component in a plane of its own: not nv12.
    is_planar = not described.is_rgb and [kind.plane for kind in kinds] == [0, 1, 2]
    if not is_planar or described.is_big_endian or pixel_format.startswith("yuvj") or matrix not in _LUMA:
        return None
    bits = {kind.bits for kind in kinds}
    subsampling = 16 // described.chroma_height(16), 16 // described.chroma_width(16)
    if len(bits) > 1 or max(subsampling) > 2:
        return None
    return Layout(matrix, bits.pop(), subsampling)


def from_rgb(images: jax.Array, layout: Layout) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return luma, blue and red difference of RGB images.

    Args:
      images: float [..., H, W, 3] in units of [0, 1]; clamped to it. H and W are multiples of the subsampling.
      layout: of the planes.

    Returns:
      Three arrays of `layout.dtype`, [..., H, W] and twice [..., H / rows, W / columns].

    Raises:
      ValueError: a side is not a multiple of the subsampling.
    """
    rows, columns = layout.subsampling
    height, width = images.shape[-3:-1]
    if height % rows or width % columns:
        raise ValueError(
            f"images of {width}x{height} are not made of {columns}x{rows} pixels a chroma sample"
        )
    images = jnp.clip(images.astype(jnp.float32), 0.0, 1.0)
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    weight_red, weight_blue = _LUMA[layout.matrix]
    luma = weight_red * red + (1 - weight_red - weight_blue) * green + weight_blue * blue
    differences = [
        (blue - luma) / (2 * (1 - weight_blue)),
        (red - luma) / (2 * (1 - weight_red)),
    ]
    for axis, step, phase in ((-2, rows, 0.5), (-1, columns, 0.0)):
        if step == 2:
            differences = [_halve(plane, axis, phase) for plane in differences]
    unit = 2 ** (layout.bits - 8)
    scaled = [(16 + 219 * luma) * unit, *((128 + 224 * plane) * unit for plane in differences)]
    # Overshoots of the kernel stay within what is left above and below the range.
    most = 2**layout.bits - 1
    return tuple(jnp.clip(jnp.floor(plane + 0.5), 0, most).astype(layout.dtype) for plane in scaled)


def _halve(plane: jax.Array, axis: int, phase: float) -> jax.Array:
    """Halves a side; sample i of the result lies at 2 i + `phase`. Edges are repeated."""
    offsets = np.arange(-3, 5 if phase else 4)
    weights = _bicubic((offsets - phase) / 2)
    weights /= weights.sum()
    size = plane.shape[axis]
    padding = [(0, 0)] * plane.ndim
    padding[axis] = (3, 4)
    padded = jnp.pad(plane, padding, mode="edge")
    taps = [
        float(weight) * jax.lax.slice_in_dim(padded, first, first + size, stride=2, axis=axis % plane.ndim)
        for first, weight in enumerate(weights)
        if weight
    ]
    return sum(taps[1:], taps[0])


def _bicubic(x: np.ndarray) -> np.ndarray:
    """FFmpeg's default cubic kernel (Mitchell-Netravali with B = 0, C = 0.6)."""
    x = np.abs(x)
    near = (8.4 * x**3 - 14.4 * x**2 + 6) / 6
    far = (-3.6 * x**3 + 18 * x**2 - 28.8 * x + 14.4) / 6
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def crop(planes: Sequence[np.ndarray], height: int, width: int, layout: Layout) -> list[np.ndarray]:
    """Return planes cut to `height` x `width` pixels of luma, multiples of the subsampling."""
    rows, columns = layout.subsampling
    luma, *chroma = planes
    return [luma[..., :height, :width], *(p[..., : height // rows, : width // columns] for p in chroma)]
