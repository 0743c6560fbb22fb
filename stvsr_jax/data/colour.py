"""Turns decoded video frames into RGB, with the colour matrix and range that the video declares.

A stream that declares neither is read as players read it: BT.709 from 1280 pixels of width or 577 lines up,
BT.601 below, and limited range (16..235) unless the pixel format is one of the full-range `yuvj` kinds.
Transfer curves and primaries are left as they are: values are the ones a display would be sent.
"""

import numpy as np
from av import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

# FFmpeg's AVColorSpace numbers, as frames carry them, to what the converter takes.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
# Chroma is interpolated, not repeated, and rounding is right; the converter's default is up to 2 levels dark.
_EXACT = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_AVERAGE = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
# Formats whose planes can be cropped before converting, with the (y, x) subsampling of chroma.
_PLANAR = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (1, 2),
    "yuvj422p": (1, 2),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
}
# A crop is widened by this before it is converted, and aligned to it, so that interpolated chroma is the
# same.
_MARGIN = 16
# Sizes of part frames kept for reuse.
_MAX_PARTS = 64


def colour_of(frame: VideoFrame) -> tuple[int, int]:
    """Return the (matrix, range) to convert `frame` with, as numbers for `RgbConverter`."""
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    untagged = Colorspace.ITU709 if is_high_definition(frame) else Colorspace.ITU601
    matrix = MATRICES.get(int(frame.colorspace), untagged)
    return int(matrix), int(ColorRange.JPEG if full else ColorRange.MPEG)


def is_high_definition(frame: VideoFrame) -> bool:
    """Return whether players take an untagged stream of this size for BT.709 rather than BT.601."""
    return frame.width >= 1280 or frame.height > 576


class RgbConverter:
    """Converts the frames of one stream; keeps the converter's tables between frames. For one thread.

    Args:
      matrix, value_range: from `colour_of`.
      like: a frame of the original stream, when the frames to convert come from a copy of it that has not
        kept where chroma is sited.
    """

    def __init__(self, matrix: int, value_range: int, *, like: VideoFrame | None = None):
        self._colour = {
            "src_colorspace": matrix,
            "src_color_range": value_range,
            "dst_color_range": int(ColorRange.JPEG),
            "threads": 1,
        }
        self._like = like
        self._reformatter = VideoReformatter()
        self._parts: dict[tuple[int, int], VideoFrame] = {}

    def to_rgb(self, frame: VideoFrame, crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Return `frame`, or its (top, left, height, width) part, as uint8 [h, w, 3] RGB."""
        whole = (0, 0, frame.height, frame.width)
        top, left, height, width = crop or whole
        if frame.format.name in _PLANAR:
            is_small = height * width < 0.5 * frame.height * frame.width
            row, column, rows, columns = _widen(crop, frame) if is_small else whole
            if self._like is not None or (rows, columns) != (frame.height, frame.width):
                frame = self._copy_part(frame, (row, column, rows, columns))
                top, left = top - row, left - column
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=_EXACT, **self._colour)
        return rgb.to_ndarray()[top : top + height, left : left + width]

    def shrink(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """Return `frame` averaged down to uint8 [*size, 3] RGB."""
        rgb = self._reformatter.reformat(
            frame, height=size[0], width=size[1], format="rgb24", interpolation=_AVERAGE, **self._colour
        )
        return rgb.to_ndarray()

    def _copy_part(self, frame: VideoFrame, part: tuple[int, int, int, int]) -> VideoFrame:
        """Return the (row, column, rows, columns) part of `frame` as a frame that later calls overwrite."""
        row, column, rows, columns = part
        if (rows, columns) not in self._parts:
            if len(self._parts) >= _MAX_PARTS:
                self._parts.clear()
            self._parts[rows, columns] = self._blank_frame(frame, rows, columns)
        target = self._parts[rows, columns]
        for i, (source, plane) in enumerate(zip(frame.planes, target.planes, strict=True)):
            sub_y, sub_x = _PLANAR[frame.format.name] if i else (1, 1)
            pixels = np.frombuffer(source, np.uint8).reshape(-1, source.line_size)
            pixels = pixels[
                row // sub_y : -(-(row + rows) // sub_y), column // sub_x : -(-(column + columns) // sub_x)
            ]
            lines = np.zeros((plane.height, plane.line_size), np.uint8)
            lines[:, : pixels.shape[1]] = pixels
            plane.update(lines)
        return target

    def _blank_frame(self, frame: VideoFrame, height: int, width: int) -> VideoFrame:
        """Return a new frame of the given size in `frame`'s format, chroma sited as in the original stream.

        A resized frame inherits that; a frame made from nothing cannot be told.
        """
        like = self._like or frame
        # Two steps, since a conversion that changes nothing would hand back `like` itself.
        for size in ((height + 2, width + 2), (height, width)):
            like = self._reformatter.reformat(
                like,
                height=size[0],
                width=size[1],
                format=frame.format.name,
                interpolation=Interpolation.POINT,
                threads=1,
            )
        return like


def _widen(crop: tuple[int, int, int, int], frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return `crop` with a margin, aligned to it and kept inside `frame`."""
    top, left, height, width = crop
    row, column = max(0, top - _MARGIN) // _MARGIN * _MARGIN, max(0, left - _MARGIN) // _MARGIN * _MARGIN
    bottom = min(frame.height, -(-(top + height + _MARGIN) // _MARGIN) * _MARGIN)
    right = min(frame.width, -(-(left + width + _MARGIN) // _MARGIN) * _MARGIN)
    return row, column, bottom - row, right - column
