"""Which stream of a media file is its picture, how it is decoded, and which way up it is."""

import collections
import struct
from collections.abc import Iterable, Iterator

import av
import numpy as np

# The usual decoders of these leave transparency out; FFmpeg's name of the one that does not.
_DECODERS_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

# Counterclockwise degrees to what `read_orientation` returns.
_ROTATIONS = {90: (True, True, False), -90: (True, False, True)} | dict.fromkeys(
    (180, -180), (False, True, True)
)


def best_video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Returns the stream that a player would choose; cover pictures do not count.

    Raises:
      ValueError: there is none.
    """
    streams = [s for s in container.streams.video if not is_cover(s)]
    if not streams:
        raise ValueError(f"{container.name.removeprefix('file:')} has no video stream")
    best = container.streams.best("video")
    return best if best in streams else streams[0]


def is_cover(stream: av.stream.Stream) -> bool:
    """Whether a video stream is a picture that stands for the file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def decode(
    packets: Iterable[av.Packet], stream: av.VideoStream, *, skip_damaged: bool = False
) -> Iterator[av.VideoFrame]:
    """Decodes a stream in display order.

    An empty packet (Theora, AVI) repeats the frame before it: that one comes again with another pts.

    Args:
      packets: of `stream`, as `demux` yields them, up to the empty ones without timestamps at the end.
      stream: whose threads are set up.
      skip_damaged: whether to leave damaged packets out instead of raising `av.error.InvalidDataError`.
    """
    decoder = _decoder_of(stream)
    repeats = collections.deque()  # pts of empty packets whose predecessor has not come out yet
    last = None
    for packet in packets:
        pts = packet.pts if packet.pts is not None else packet.dts
        if packet.size == 0 and pts is not None:
            repeats.append(pts)
            continue
        try:
            frames = decoder.decode(packet)
        except av.error.InvalidDataError:
            if not skip_damaged:
                raise
            continue
        for frame in frames:
            while repeats and last is not None and frame.pts is not None and repeats[0] < frame.pts:
                last.pts = repeats.popleft()
                yield last
            last = frame
            yield frame
    while repeats and last is not None:
        last.pts = repeats.popleft()
        yield last


def _decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    usual = stream.codec_context
    name = _DECODERS_WITH_ALPHA.get(usual.codec.canonical_name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1":
        return usual
    decoder = av.CodecContext.create(name, "r")
    decoder.extradata = usual.extradata
    decoder.thread_type, decoder.thread_count = usual.thread_type, usual.thread_count
    return decoder


def read_orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Returns (transpose, flip rows, flip columns) that make a frame upright, from its display matrix.

    Rotations that are no multiple of 90 degrees count as none.
    """
    try:
        side_data = frame.side_data.get("DISPLAYMATRIX")
    except (
        ValueError
    ):  # PyAV does not know all kinds (EXIF, say) and then names none; turned pictures are not mirrored
        return _ROTATIONS.get(round(frame.rotation), (False, False, False))
    if side_data is None:
        return False, False, False
    # Row vectors: (x, y) is shown at (a x + c y, b x + d y), 16.16 fixed point.
    a, b, _, c, d = struct.unpack("=9i", bytes(side_data))[:5]
    if b == c == 0 and a and d:
        return False, d < 0, a < 0
    if a == d == 0 and b and c:
        return True, b < 0, c < 0
    return False, False, False


def turn_back(
    crop: tuple[int, int, int, int], size: tuple[int, int], orientation: tuple[bool, bool, bool]
) -> tuple[int, int, int, int]:
    """Returns where a part (top, left, height, width) of an upright picture of `size` lies before `make_upright`."""
    (top, left, height, width), (transpose, flip_rows, flip_columns) = crop, orientation
    top = size[0] - top - height if flip_rows else top
    left = size[1] - left - width if flip_columns else left
    return (left, top, width, height) if transpose else (top, left, height, width)


def make_upright(image: np.ndarray, orientation: tuple[bool, bool, bool]) -> np.ndarray:
    """Applies an orientation to [H, W, 3]."""
    transpose, flip_rows, flip_columns = orientation
    if transpose:
        image = image.transpose(1, 0, 2)
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
