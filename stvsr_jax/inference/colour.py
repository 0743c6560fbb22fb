"""Between decoded video frames and RGB of 8 or 16 bits, with the matrix and range that the stream declares.

Two habits of the scaler below PyAV are avoided here. Without `ACCURATE_RND` and `FULL_CHR_H_INT` one trip
RGB -> 4:2:0 -> RGB darkens a picture by about one level in 255 (five after four trips), and writing
full-range YCbCr truncates instead of rounding. So both flags are always set and output is always limited
range, whatever the input was.
"""

import dataclasses

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from stvsr_jax.data.colour import MATRICES, is_high_definition

# ISO/IEC 23091-2 code points, as FFmpeg numbers them.
UNSPECIFIED = 2
BT709 = 1
BT601 = 6
RGB = 0
LIMITED_RANGE = 1
FULL_RANGE = 2

_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclasses.dataclass(frozen=True)
class ColourTags:
    """How the numbers of a stream mean colours; code points of ISO/IEC 23091-2.

    Attributes:
      matrix: matrix coefficients, never unspecified.
      is_full_range: YCbCr of 0..255 instead of 16..235 and 16..240.
      primaries: colour primaries, 2 when the stream does not say.
      transfer: transfer characteristics, 2 when the stream does not say.
    """

    matrix: int
    is_full_range: bool
    primaries: int
    transfer: int


PICTURES = ColourTags(BT709, False, 1, 1)  # what a folder of pictures is written as


def read_tags(frame: av.VideoFrame) -> ColourTags:
    """Returns the colour tags of a decoded frame, with an unspecified matrix replaced by what players assume.

    That is BT.709 from 1280 pixels of width or 577 of height on, BT.601 below. The choice has to be made from
    the input's size and written down: the enlarged output would be taken for BT.709.

    Raises:
      NotImplementedError: the matrix is none of BT.709, BT.601, FCC, SMPTE 240M, BT.2020 and RGB.
    """
    matrix = int(frame.colorspace)
    if frame.format.is_rgb or frame.format.name == "pal8":
        matrix = RGB
    elif matrix in (UNSPECIFIED, RGB, 3):
        matrix = BT709 if is_high_definition(frame) else BT601
    if matrix != RGB and matrix not in MATRICES:
        raise NotImplementedError(
            f"colour matrix {matrix} (ISO/IEC 23091-2) is not supported; convert the input to BT.709 first"
        )
    is_full = int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj")
    return ColourTags(matrix, is_full, int(frame.color_primaries), int(frame.color_trc))


def frame_to_rgb(
    frame: av.VideoFrame, tags: ColourTags, *, size: tuple[int, int], is_deep: bool = False
) -> np.ndarray:
    """Converts one decoded frame.

    Args:
      frame: any pixel format.
      tags: of the stream.
      size: (H, W) to return; a frame of another size (streams may change it) is resized.
      is_deep: whether to return 16 bits.

    Returns:
      uint8 or uint16 [H, W, 3].
    """
    height, width = size
    pixel_format = "rgb48le" if is_deep else "rgb24"
    options = dict(width=width, height=height, format=pixel_format, interpolation=_SCALER)
    if tags.matrix != RGB:
        frame.colorspace = tags.matrix
        options["src_color_range"] = ColorRange.JPEG if tags.is_full_range else ColorRange.MPEG
    return frame.reformat(**options).to_ndarray()


def rgb_to_frame(rgb: np.ndarray, pixel_format: str, tags: ColourTags) -> av.VideoFrame:
    """Makes a frame to encode from RGB.

    Args:
      rgb: uint8 or uint16 [H, W, 3].
      pixel_format: FFmpeg's name, YCbCr or RGB.
      tags: of the output, see `output_tags`.
    """
    given = "rgb48le" if rgb.dtype == np.uint16 else "rgb24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format=given)
    if av.VideoFormat(pixel_format).is_rgb:
        return frame.reformat(format=pixel_format, interpolation=_SCALER)
    frame = frame.reformat(
        format=pixel_format,
        dst_colorspace=MATRICES[tags.matrix],
        dst_color_range=ColorRange.MPEG,
        interpolation=_SCALER,
    )
    frame.colorspace = tags.matrix
    frame.color_range = LIMITED_RANGE
    frame.color_primaries = tags.primaries
    frame.color_trc = tags.transfer
    return frame


def output_tags(tags: ColourTags) -> ColourTags:
    """Returns the tags to write for an input's: the same colours, in limited range, RGB as BT.709."""
    return dataclasses.replace(tags, matrix=BT709 if tags.matrix == RGB else tags.matrix, is_full_range=False)


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Rounds uint16 to uint8; uint8 stays."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
