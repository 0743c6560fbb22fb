"""RGB to the planes that a video encoder takes, in the program that renders: half the bytes leave the device.

Limited range, 8 to 16 bits, from the network's numbers with one rounding. The host's way (`video.colour.FrameMaker`)
rounds to RGB first, and lies at most one level of 8 bits away. Halved chroma is sited as there: on the left of its two
columns, and between its two rows. The kernel is FFmpeg's bicubic one, stretched.
"""

import dataclasses

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
    """Returns the layout of one of FFmpeg's pixel formats, None where it is not of three planes of YCbCr.

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
    """Returns luma, blue and red difference of RGB images.

    Args:
      images: float [..., H, W, 3] in units of [0, 1], clamped. H and W are multiples of the subsampling.
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
    red, green, blue = (jnp.clip(images[..., i].astype(jnp.float32), 0.0, 1.0) for i in range(3))
    weight_red, weight_blue = _LUMA[layout.matrix]
    luma = weight_red * red + (1 - weight_red - weight_blue) * green + weight_blue * blue
    differences = [
        (blue - luma) / (2 * (1 - weight_blue)),
        (red - luma) / (2 * (1 - weight_red)),
    ]
    for axis, step, phase in ((-2, rows, 0.5), (-1, columns, 0.0)):
        if step == 2:
            differences = [_halve(plane, axis, phase) for plane in differences]
    level = 2 ** (layout.bits - 8)
    scaled = [(16 + 219 * luma) * level, *((128 + 224 * plane) * level for plane in differences)]
    # Overshoots of the kernel stay within what is left above and below the range.
    most = 2**layout.bits - 1
    return tuple(jnp.clip(jnp.floor(plane + 0.5), 0, most).astype(layout.dtype) for plane in scaled)


def _halve(plane, axis, phase):
    """Halves a side; sample i of the result lies at 2 i + `phase`. Edges are repeated."""
    weights = _bicubic((np.arange(-3, 5 if phase else 4) - phase) / 2)
    weights /= weights.sum()
    plane = jnp.moveaxis(plane, axis, -1)
    size = plane.shape[-1]
    padded = jnp.pad(plane, [(0, 0)] * (plane.ndim - 1) + [(3, 4)], mode="edge")
    taps = [float(w) * padded[..., first : first + size : 2] for first, w in enumerate(weights) if w]
    return jnp.moveaxis(sum(taps[1:], taps[0]), -1, axis)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """FFmpeg's default cubic kernel (Mitchell-Netravali with B = 0, C = 0.6)."""
    x = np.abs(x)
    near = (8.4 * x**3 - 14.4 * x**2 + 6) / 6
    far = (-3.6 * x**3 + 18 * x**2 - 28.8 * x + 14.4) / 6
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def pack(images: jax.Array, layout: Layout) -> jax.Array:
    """Returns the planes of images, of which an odd last row or column is left out, one behind the other: [..., n].

    Args:
      images: [..., H, W, 3], see `from_rgb`.
      layout: of the planes.
    """
    height, width = _encoded_size(images.shape[-3:-1], layout)
    planes = from_rgb(images[..., :height, :width, :], layout)
    return jnp.concatenate([plane.reshape(*plane.shape[:-2], -1) for plane in planes], axis=-1)


def unpack(packed: np.ndarray, size: tuple[int, int], layout: Layout) -> list[np.ndarray]:
    """Returns the three planes, views, of one image of `size` (H, W) that was packed, [n]."""
    height, width = _encoded_size(size, layout)
    rows, columns = layout.subsampling
    luma, chroma = (height, width), (height // rows, width // columns)
    first, second = height * width, height * width + chroma[0] * chroma[1]
    return [
        packed[:first].reshape(luma),
        packed[first:second].reshape(chroma),
        packed[second:].reshape(chroma),
    ]


def _encoded_size(size, layout):
    rows, columns = layout.subsampling
    return size[0] // rows * rows, size[1] // columns * columns
