"""The planes of luma and chroma that encoders take: their sizes and sample types, and packed into one array."""

import dataclasses

import numpy as np
from av import VideoFormat

# Weights of red and blue in luma, by matrix (ISO/IEC 23091-2).
LUMA_WEIGHTS = {
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
    """Three planes: luma, and blue and red difference.

    Attributes:
      matrix: coefficients, a code point of ISO/IEC 23091-2.
      bits: per sample.
      subsampling: rows and columns of luma per sample of chroma, 1 or 2.
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
    has_matrix = matrix in LUMA_WEIGHTS
    if not is_planar or described.is_big_endian or pixel_format.startswith("yuvj") or not has_matrix:
        return None
    bits = {kind.bits for kind in kinds}
    subsampling = subsampling_of(pixel_format)
    if len(bits) > 1 or max(subsampling) > 2:
        return None
    return Layout(matrix, bits.pop(), subsampling)


def subsampling_of(pixel_format: str) -> tuple[int, int]:
    """Returns the rows and columns of luma per sample of chroma of one of FFmpeg's pixel formats."""
    described = VideoFormat(pixel_format)
    return 16 // described.chroma_height(16), 16 // described.chroma_width(16)


def encoded_size(size: tuple[int, int], subsampling: tuple[int, int]) -> tuple[int, int]:
    """Returns the part of `size` (H, W) that is made of whole samples of chroma."""
    (height, width), (rows, columns) = size, subsampling
    return height // rows * rows, width // columns * columns


def unpack(packed: np.ndarray, size: tuple[int, int], layout: Layout) -> list[np.ndarray]:
    """Returns the three planes, views, of one image that was packed.

    Args:
      packed: `layout.dtype` [n], the planes one behind the other.
      size: (H, W) of the image; an odd last row or column is not in the planes.
      layout: of the planes.
    """
    height, width = encoded_size(size, layout.subsampling)
    rows, columns = layout.subsampling
    luma, chroma = (height, width), (height // rows, width // columns)
    first, second = height * width, height * width + chroma[0] * chroma[1]
    return [
        packed[:first].reshape(luma),
        packed[first:second].reshape(chroma),
        packed[second:].reshape(chroma),
    ]
