"""Between decoded video frames and RGB: the one policy of training, evaluation and inference.

* Matrix and range are those that the stream declares. One that declares no matrix is read as players read it: BT.709
  from 1280 pixels of width or 577 lines up, BT.601 below. Without a declared range it is limited (16..235) unless
  the pixel format is one of the full-range `yuvj` kinds. An unknown matrix is refused, not guessed.
* Transfer curves and primaries are left as they are: values are the ones a display would be sent.
* Chroma is interpolated bicubically, where the stream sites it, and everything is rounded.
* What is transparent lies on black.

Two habits of the scaler below PyAV are avoided. Without `ACCURATE_RND` and `FULL_CHR_H_INT` one trip
RGB -> 4:2:0 -> RGB darkens a picture by about one level in 255 (five after four trips), and writing full-range
YCbCr truncates instead of rounding. So both flags are always set and output is always limited range.
"""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from av import CodecContext, VideoFormat, VideoFrame
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from stvsr_jax.video import frame_parts

# ISO/IEC 23091-2 code points, as FFmpeg numbers them.
UNSPECIFIED = 2
BT709 = 1
BT601 = 6
RGB = 0
_RESERVED = 3
LIMITED_RANGE = 1
FULL_RANGE = 2
# To what the converter takes.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_TO_CHROMA = _EXACT | Interpolation.FULL_CHR_H_INP  # which does not average columns beforehand
_AVERAGE = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND


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


def read_tags(frame: VideoFrame) -> ColourTags:
    """Returns the colour tags of a decoded frame, with an unspecified matrix replaced by what players assume.

    The choice has to be made from the input's size and written down: the enlarged output would be taken for BT.709.

    Raises:
      NotImplementedError: the matrix is none of BT.709, BT.601, FCC, SMPTE 240M, BT.2020 and RGB.
    """
    matrix = int(frame.colorspace)
    if frame.format.is_rgb or frame.format.name == "pal8":
        matrix = RGB
    elif matrix in (UNSPECIFIED, RGB, _RESERVED):
        matrix = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
    if matrix != RGB and matrix not in MATRICES:
        raise NotImplementedError(
            f"colour matrix {matrix} (ISO/IEC 23091-2) is not supported; convert the input to BT.709 first"
        )
    is_full = int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj")
    return ColourTags(matrix, is_full, int(frame.color_primaries), int(frame.color_trc))


def has_alpha(frame: VideoFrame) -> bool:
    """Whether the pixel format of a frame has room for transparency."""
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def is_transparent(frame: VideoFrame) -> bool:
    """Whether a frame is transparent anywhere."""
    return has_alpha(frame) and bool((frame.to_ndarray(format="rgba")[..., 3] < 255).any())


def on_black(rgba: np.ndarray) -> np.ndarray:
    """Lays uint8 or uint16 [H, W, 4] on black; returns [H, W, 3]."""
    most = np.iinfo(rgba.dtype).max
    product = rgba[..., :3].astype(np.uint32) * rgba[..., 3:]  # at most 65535 ** 2, which 32 bits hold
    return ((product + most // 2) // most).astype(rgba.dtype)


class RgbConverter:
    """Converts the frames of one stream; keeps the converter's tables between frames. For one thread.

    Args:
      tags: from `read_tags`.
      threads: of the converter, 0 for as many as there are processors.
    """

    def __init__(self, tags: ColourTags, *, threads: int = 1):
        self._colour = {"dst_color_range": ColorRange.JPEG, "threads": threads}
        if tags.matrix != RGB:
            self._colour["src_colorspace"] = MATRICES[tags.matrix]
            self._colour["src_color_range"] = ColorRange.JPEG if tags.is_full_range else ColorRange.MPEG
        self._reformatter = VideoReformatter()
        self._parts = frame_parts.PartFrames()

    def to_rgb(
        self,
        frame: VideoFrame,
        crop: tuple[int, int, int, int] | None = None,
        *,
        size: tuple[int, int] | None = None,
        is_deep: bool = False,
    ) -> np.ndarray:
        """Returns a frame, or a part of it, as RGB.

        Args:
          frame: any pixel format.
          crop: (top, left, height, width) of the part; None for all of it.
          size: (H, W) that the frame is resized to, without `crop`: streams may change their size.
          is_deep: whether to return 16 bits.

        Returns:
          uint8 or uint16 [h, w, 3].
        """
        whole = (0, 0, frame.height, frame.width)
        top, left, height, width = crop or whole
        if frame.format.name in frame_parts.PLANAR and size in (None, whole[2:]):
            part = frame_parts.needed_part(crop, whole[2:], frame.format.name)
            if part != whole:
                planes = frame_parts.cut_planes(frame, part)
                frame = self._parts.fill(planes, frame.format.name, frame)
                top, left = top - part[0], left - part[1]
        rgb = self._reformat(frame, size or (frame.height, frame.width), _EXACT, is_deep)
        return rgb if crop is None else rgb[top : top + height, left : left + width]

    def planes_to_rgb(self, planes: Sequence[np.ndarray], pixel_format: str, like: VideoFrame) -> np.ndarray:
        """Returns uint8 [h, w, 3] of the planes of a frame, or of a part of one.

        Args:
          planes: uint8 [h, w] and what chroma has.
          pixel_format: one of `frame_parts.PLANAR`.
          like: a frame of the original stream, where chroma is sited as in it.
        """
        frame = self._parts.fill(planes, pixel_format, like)
        return self._reformat(frame, (frame.height, frame.width), _EXACT, False)

    def shrink(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """Returns `frame` averaged down to uint8 [*size, 3] RGB."""
        return self._reformat(frame, size, _AVERAGE, False)

    def _reformat(self, frame, size, interpolation, is_deep):
        # The converter's way from more than 8 bits to 8 is off by up to one and a half levels.
        is_exact = is_deep or max(component.bits for component in frame.format.components) > 8
        kind = (
            ("rgba64le" if is_exact else "rgba") if has_alpha(frame) else ("rgb48le" if is_exact else "rgb24")
        )
        converted = self._reformatter.reformat(
            frame, height=size[0], width=size[1], format=kind, interpolation=interpolation, **self._colour
        )
        image = converted.to_ndarray()
        image = on_black(image) if image.shape[-1] == 4 else image
        return image if is_deep else to_8_bits(image)


class FrameMaker:
    """Makes frames to encode from RGB of one size; keeps the converter's tables between frames. For one thread.

    Halved chroma is sited where readers of MPEG-2 and all later codecs take it to be: on the left of its two columns, and
    between its two rows. Left to itself the converter centres it, half a pixel away.

    Args:
      pixel_format: FFmpeg's name, YCbCr or RGB.
      tags: of the output, see `output_tags`.
    """

    def __init__(self, pixel_format: str, tags: ColourTags):
        self._tags = None if VideoFormat(pixel_format).is_rgb else tags
        self._settings = {"format": pixel_format, "interpolation": _TO_CHROMA, "threads": 1}
        if self._tags:
            self._settings["dst_colorspace"] = MATRICES[tags.matrix]
            self._settings["dst_color_range"] = ColorRange.MPEG
        self._reformatter = VideoReformatter()
        self._given: VideoFrame | None = None

    def make(self, rgb: np.ndarray) -> VideoFrame:
        """Returns a frame of uint8 or uint16 [H, W, 3]."""
        kind = "rgb48le" if rgb.dtype == np.uint16 else "rgb24"
        height, width, _ = rgb.shape
        if self._given is None or (height, width, kind) != _kind_of(self._given):
            self._given = frame_parts.resize_like(_sited_frame(), height, width, kind)
            self._given.pict_type, self._given.pts = PictureType.NONE, None  # an encoder would obey them
        lines = np.frombuffer(self._given.planes[0], rgb.dtype).reshape(height, -1)  # with room at their ends
        lines[:, : 3 * width].reshape(rgb.shape)[:] = rgb
        frame = self._reformatter.reformat(self._given, **self._settings)
        return _tag(frame, self._tags) if self._tags else frame


def _kind_of(frame):
    return frame.height, frame.width, frame.format.name


@functools.cache
def _sited_frame() -> VideoFrame:
    """Returns a frame with chroma sited on the left. PyAV cannot set that; MPEG-4's decoder does."""
    encoder = CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 16, 16, "yuv420p", Fraction(1, 25)
    packets = [*encoder.encode(VideoFrame(16, 16, "yuv420p")), *encoder.encode(None)]
    decoder = CodecContext.create("mpeg4", "r")
    return [frame for packet in [*packets, None] for frame in decoder.decode(packet)][0]


def rgb_to_frame(rgb: np.ndarray, pixel_format: str, tags: ColourTags) -> VideoFrame:
    """Makes one frame of RGB, see `FrameMaker`."""
    return FrameMaker(pixel_format, tags).make(rgb)


def planes_to_frame(samples: Sequence[np.ndarray], pixel_format: str, tags: ColourTags) -> VideoFrame:
    """Makes a frame to encode from the planes of its pixel format.

    Args:
      samples: uint8 or uint16 [H, W] and what chroma has.
      pixel_format: FFmpeg's name, planar YCbCr.
      tags: of the output, see `output_tags`.
    """
    height, width = samples[0].shape
    frame = VideoFrame(width, height, pixel_format)
    for plane, values in zip(frame.planes, samples, strict=True):
        lines = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
        padding = plane.line_size - lines.shape[1]
        plane.update(np.pad(lines, ((0, 0), (0, padding))) if padding else lines)
    return _tag(frame, tags)


def _tag(frame, tags):
    frame.colorspace = tags.matrix
    frame.color_range = LIMITED_RANGE
    frame.color_primaries = tags.primaries
    frame.color_trc = tags.transfer
    return frame


def output_tags(tags: ColourTags) -> ColourTags:
    """Returns the tags to write for an input's: the same colours, in limited range, RGB as BT.709."""
    return dataclasses.replace(tags, matrix=BT709 if tags.matrix == RGB else tags.matrix, is_full_range=False)


def to_16_bits(image: np.ndarray) -> np.ndarray:
    """Widens uint8 [...] to uint16, 255 to 65535; uint16 stays."""
    return image if image.dtype == np.uint16 else image.astype(np.uint16) * 257


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Rounds uint16 [...] to uint8, 65535 to 255; uint8 stays."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
