"""Parts of frames with planes of their own, which convert to the RGB that they have in the whole frame."""

from collections.abc import Sequence

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

# Formats whose planes can be cropped before converting, with the (y, x) subsampling of chroma.
PLANAR = {
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


def needed_part(
    crop: tuple[int, int, int, int] | None, size: tuple[int, int], pixel_format: str
) -> tuple[int, int, int, int]:
    """Returns the part (top, left, height, width) of a frame that has to be converted for a crop of it.

    Args:
      crop: (top, left, height, width); None for all of it.
      size: (height, width) of the frame.
      pixel_format: one of `PLANAR`.
    """
    whole = (0, 0, *size)
    if crop is None:
        return whole
    top, left, height, width = crop
    # Chroma of an odd side is stretched a little over the whole of it.
    is_even = not any(side % step for side, step in zip(size, PLANAR[pixel_format], strict=True))
    if not is_even or height * width >= 0.5 * size[0] * size[1]:
        return whole
    row, column = max(0, top - _MARGIN) // _MARGIN * _MARGIN, max(0, left - _MARGIN) // _MARGIN * _MARGIN
    bottom = min(size[0], -(-(top + height + _MARGIN) // _MARGIN) * _MARGIN)
    right = min(size[1], -(-(left + width + _MARGIN) // _MARGIN) * _MARGIN)
    return row, column, bottom - row, right - column


def plane_part(part: tuple[int, int, int, int], subsampling: tuple[int, int]) -> tuple[slice, slice]:
    """Returns the rows and columns of a plane that show a part of the frame."""
    (row, column, rows, columns), (sub_y, sub_x) = part, subsampling
    return (
        slice(row // sub_y, -(-(row + rows) // sub_y)),
        slice(column // sub_x, -(-(column + columns) // sub_x)),
    )


def cut_planes(frame: VideoFrame, part: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Returns a part of each plane of a frame, uint8 [h, w], as views."""
    planes = []
    for i, plane in enumerate(frame.planes):
        pixels = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
        planes.append(pixels[plane_part(part, PLANAR[frame.format.name] if i else (1, 1))])
    return planes


class PartFrames:
    """Frames that hold parts of others, one for each size, overwritten each time. For one thread."""

    def __init__(self):
        self._frames: dict[tuple[int, int, str], VideoFrame] = {}

    def fill(self, planes: Sequence[np.ndarray], pixel_format: str, like: VideoFrame) -> VideoFrame:
        """Returns a frame of these planes, with chroma sited as in `like`; the next call overwrites it."""
        kind = (*planes[0].shape, pixel_format)
        if kind not in self._frames:
            if len(self._frames) >= _MAX_PARTS:
                self._frames.clear()
            self._frames[kind] = resize_like(like, *kind)
        target = self._frames[kind]
        for pixels, plane in zip(planes, target.planes, strict=True):
            lines = np.zeros((plane.height, plane.line_size), np.uint8)
            lines[:, : pixels.shape[1]] = pixels
            plane.update(lines)
        return target


def resize_like(like: VideoFrame, height: int, width: int, pixel_format: str) -> VideoFrame:
    """Returns a new frame of any content, with the chroma siting of another.

    A resized frame inherits that; a frame made from nothing cannot be told.
    """
    # Two steps, since a conversion that changes nothing would hand back `like` itself.
    for size in ((height + 2, width + 2), (height, width)):
        like = VideoReformatter().reformat(
            like,
            height=size[0],
            width=size[1],
            format=pixel_format,
            interpolation=Interpolation.POINT,
            threads=1,
        )
    return like
