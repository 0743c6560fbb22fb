"""Decoders of videos by name: FFmpeg's in software, and those of hardware.

Hardware is used only if it is named, and never replaced by software. It decodes codecs alone whose specification says what
every pixel is, so frames, and what is made of them, are the same bit for bit. `check_input` tries that out on the first
frames of each input.
"""

import contextlib
import itertools
import pathlib
from collections.abc import Iterable, Iterator

import av
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.reformatter import ColorRange, VideoReformatter

from stvsr_jax.video import decoding, media

SOFTWARE = "software"
# To FFmpeg's kind of device.
DECODERS = {SOFTWARE: None, "cuda": "cuda"}
_NEEDS = {"cuda": "an NVIDIA GPU with NVDEC, and its driver with libnvcuvid"}
_EXACT_CODECS = ("av1", "h264", "hevc", "vp9")
# Formats that hardware gives, and those with the same samples that software gives. Others are refused.
_PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le", "yuv444p": "yuv444p"}
_TRIED_FRAMES = 3


def check_decoder(decoder: str) -> None:
    """Raises ValueError unless there is a decoder of this name, and FFmpeg was built with it."""
    if decoder not in DECODERS:
        raise ValueError(f"decoder={decoder!r} is not one of {', '.join(DECODERS)}")
    kind = DECODERS[decoder]
    if kind is not None and kind not in (present := hwdevices_available()):
        raise ValueError(
            f"decoder={decoder}: the FFmpeg here was built without it; it has {', '.join(present) or 'none'}"
        )


def check_input(
    path: pathlib.Path, stream_index: int | None, decoder: str, *, has_alpha: bool = False
) -> None:
    """Tries a decoder on the first frames of an input.

    Args:
      path: of a video, or of pictures.
      stream_index: of the video, None for pictures.
      decoder: a name in DECODERS.
      has_alpha: whether its pictures are transparent.

    Raises:
      ValueError: hardware is missing, cannot decode this input, or gives other frames than software.
    """
    if decoder == SOFTWARE:
        return
    if stream_index is None:
        raise ValueError(f"decoder={decoder}: {path} is no video of one of {', '.join(_EXACT_CODECS)}")
    with open_stream(path, stream_index, SOFTWARE) as (container, stream):
        codec = stream.codec_context.codec.canonical_name
        if codec not in _EXACT_CODECS:
            raise ValueError(
                f"decoder={decoder}: {path} is {codec}; only of {', '.join(_EXACT_CODECS)} is every pixel specified"
            )
        if has_alpha:
            raise ValueError(f"decoder={decoder}: {path} is transparent, which only software decodes")
        frames = decoding.decode(container.demux(stream), stream, skip_damaged=True)
        expected = [_samples(frame) for frame in itertools.islice(frames, _TRIED_FRAMES)]
    with open_stream(path, stream_index, decoder) as (container, stream):
        decoded = decode(container.demux(stream), stream, decoder)
        found = [_samples(frame) for frame in itertools.islice(decoded, _TRIED_FRAMES)]
    is_same = len(found) == len(expected) and all(
        a[0] == b[0] and all(map(np.array_equal, a[1], b[1])) for a, b in zip(found, expected, strict=True)
    )
    if not is_same:
        kinds = [" ".join(map(str, frames[0][0])) if frames else "nothing" for frames in (found, expected)]
        raise ValueError(
            f"decoder={decoder}: {path} decodes to other frames ({kinds[0]}) than in software ({kinds[1]})"
        )


def _samples(frame):
    """Returns what must not depend on the decoder: (format, width, height, pts) and the planes."""
    name, planes = frame.format.name.replace("yuvj", "yuv"), []
    for plane in frame.planes:
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        planes.append(lines[:, : plane.width * (1 + (max(c.bits for c in frame.format.components) > 8))])
    return (name, frame.width, frame.height, frame.pts), [plane.copy() for plane in planes]


@contextlib.contextmanager
def open_stream(
    path: pathlib.Path, stream_index: int, decoder: str
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a video with a decoder.

    Raises:
      ValueError: hardware is missing, or does not know the codec.
      av.FFmpegError: the file cannot be read.
    """
    kind = DECODERS[decoder]
    if kind is None:
        with media.open_to_read(path) as container:
            stream = container.streams[stream_index]
            stream.thread_type = "AUTO"
            yield container, stream
        return
    try:
        container = media.open_to_read(path, hwaccel=HWAccel(kind, allow_software_fallback=False))
    except RuntimeError:  # no stream has a decoder with that device
        container = None
    except av.FFmpegError as error:  # of the device: the file has been read before
        raise ValueError(
            f"decoder={decoder} cannot be used here ({error.strerror}): it needs {_NEEDS[decoder]}; "
            f"--decoder {SOFTWARE} reads the same frames"
        ) from error
    if container is None or not container.streams[stream_index].codec_context.is_hwaccel:
        raise ValueError(f"decoder={decoder}: the FFmpeg here cannot decode the codec of {path} with it")
    with container:
        stream = container.streams[stream_index]
        # The hardware decodes side by side by itself; each thread here would hold more of its few surfaces.
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        yield container, stream


def decode(packets: Iterable[av.Packet], stream: av.VideoStream, decoder: str) -> Iterator[av.VideoFrame]:
    """Decodes a stream of `open_stream` in display order, to the formats that software gives.

    Software leaves damaged packets out. What hardware makes of damage is unknown, so it is an error there.

    Raises:
      ValueError: hardware cannot go on.
    """
    if decoder == SOFTWARE:
        yield from decoding.decode(packets, stream, skip_damaged=True)
        return
    reformatter = VideoReformatter()
    try:
        for frame in decoding.decode(packets, stream):
            yield _to_planar(frame, reformatter, decoder)
    except av.FFmpegError as error:
        raise ValueError(
            f"decoder={decoder} cannot decode this video, or not beyond some damage of it ({error.strerror}); "
            f"--decoder {SOFTWARE} can, and goes on with the same job"
        ) from error


def _to_planar(frame, reformatter, decoder):
    name = frame.format.name
    if name not in _PLANAR:
        known = ", ".join(_PLANAR)
        raise ValueError(f"decoder={decoder} gives frames of format {name}, not of {known}: use {SOFTWARE}")
    if name == _PLANAR[name]:
        return frame
    # The same range twice: samples stay as they are. One thread: the scaler's others dither where they begin.
    same = {"src_color_range": ColorRange.MPEG, "dst_color_range": ColorRange.MPEG}
    return reformatter.reformat(frame, format=_PLANAR[name], threads=1, **same)
