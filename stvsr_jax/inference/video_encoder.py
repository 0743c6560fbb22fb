"""Encodes frames: the codecs, their settings, and an encoder that gives packets without a file.

Pixel formats with halved chroma need even sizes: an odd last row or column is left out there (FFV1 in RGB
keeps every pixel).
"""

import dataclasses
import os
import threading
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from stvsr_jax.inference.hdr import Hdr, encoder_parameters
from stvsr_jax.video import colour


@dataclasses.dataclass(frozen=True)
class Codec:
    """How to encode.

    Attributes:
      encoder: FFmpeg's name.
      pixel_formats: what it may be fed; the first is the default for 8 bits.
      deep_format: the default for more than 8 bits.
      crf: default quality, smaller is better; None where there is no such setting.
      max_crf: worst quality.
      options: of the encoder.
      tag: code that players expect in MP4 and MOV, or None.
      smallest: rows and columns that it needs.
      parameters: name of the option that holds the encoder's own parameters, or None.
      side_by_side: how many encoders may run at a time: they keep many cores busy, or take much memory.
    """

    encoder: str
    pixel_formats: tuple[str, ...]
    deep_format: str
    crf: int | None
    max_crf: int | None
    options: dict[str, str]
    tag: str | None = None
    smallest: int = 2
    parameters: str | None = None
    side_by_side: int = 2


_YUV_8 = ("yuv420p", "yuv422p", "yuv444p")
_YUV_10 = ("yuv420p10le", "yuv422p10le", "yuv444p10le")
# A job that was stopped and gone on with must give the file of one that was not: every encoder here gives the
# same bytes every time, but x264 with its macroblock tree (x264 165 on AVX-512: six runs, six results).
CODECS = {
    # Few players and no browser decode H.264 with 10 bits, so that has to be asked for.
    "h264": Codec(
        "libx264",
        _YUV_8 + _YUV_10,
        "yuv420p",
        14,
        51,
        {"preset": "medium", "x264-params": "mbtree=0"},
        parameters="x264-params",
        side_by_side=4,
    ),
    "hevc": Codec(
        "libx265",
        _YUV_8 + _YUV_10,
        "yuv420p10le",
        16,
        51,
        {"preset": "medium", "x265-params": "log-level=error"},
        "hvc1",
        parameters="x265-params",
        smallest=64,  # below that x265 writes past its memory, which ends the process, or not
    ),
    "av1": Codec(
        "libsvtav1",
        ("yuv420p", "yuv420p10le"),
        "yuv420p10le",
        20,
        63,
        {"preset": "6"},
        parameters="svtav1-params",
    ),
    "ffv1": Codec(
        "ffv1", ("bgr0", "gbrp10le", "gbrp16le", *_YUV_8, *_YUV_10), "gbrp16le", None, None, {"level": "3"}
    ),
    "prores": Codec("prores_ks", ("yuv422p10le", "yuv444p10le"), "yuv422p10le", None, None, {"profile": "3"}),
}
PIXEL_FORMATS = tuple(sorted({name for codec in CODECS.values() for name in codec.pixel_formats}))


@dataclasses.dataclass(frozen=True)
class VideoFormat:
    """What to write.

    Attributes:
      height: rows of the frames given.
      width: columns of the frames given.
      rate: frames per second, exact; the mean if it varies.
      time_base: seconds; every frame time is rounded to a multiple.
      codec: name in CODECS.
      crf: quality, None for the codec's default.
      pixel_format: of the codec's, None for its default.
      is_deep: whether frames have 16 bits.
      colour_tags: tags of the input.
      hdr: HDR metadata of the input.
      sample_aspect_ratio: width of a pixel over its height.
      metadata: title and so on.
      language: of the picture, three letters, empty if unknown.
      timecode: SMPTE time code of the first frame, empty without.
    """

    height: int
    width: int
    rate: Fraction
    time_base: Fraction
    codec: str = "h264"
    crf: int | None = None
    pixel_format: str | None = None
    is_deep: bool = False
    colour_tags: colour.ColourTags = colour.PICTURES
    hdr: Hdr = Hdr()
    sample_aspect_ratio: Fraction = Fraction(1)
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    language: str = ""
    timecode: str = ""

    @property
    def encoded_format(self) -> str:
        """The pixel format that is encoded."""
        codec = CODECS[self.codec]
        return self.pixel_format or (codec.deep_format if self.is_deep else codec.pixel_formats[0])

    @property
    def encoded_size(self) -> tuple[int, int]:
        """(H, W) that are encoded, as far as the pixel format allows."""
        chroma = av.VideoFormat(self.encoded_format)
        rows, columns = 16 // chroma.chroma_height(16), 16 // chroma.chroma_width(16)
        return self.height // rows * rows, self.width // columns * columns


def check_codec(codec: str, crf: int | None, pixel_format: str | None) -> None:
    """Checks the choice of a codec.

    Raises:
      ValueError: unknown codec, or a quality or pixel format that it does not have.
    """
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r} is not one of {sorted(CODECS)}")
    formats, largest = CODECS[codec].pixel_formats, CODECS[codec].max_crf
    if pixel_format is not None and pixel_format not in formats:
        raise ValueError(f"pixel_format={pixel_format}: {codec} takes {', '.join(formats)}")
    if crf is None:
        return
    if largest is None:
        raise ValueError(f"crf={crf}: {codec} has no such setting")
    if not 0 <= crf <= largest:
        raise ValueError(f"crf={crf} must lie in [0, {largest}] for {codec}")


def encoder_options(video: VideoFormat) -> dict[str, str]:
    """Returns the encoder's options."""
    codec = CODECS[video.codec]
    options = dict(codec.options)
    if parameters := encoder_parameters(codec.encoder, video.hdr):
        given = [options[codec.parameters]] if codec.parameters in options else []
        options[codec.parameters] = ":".join(
            given + [f"{name}={value}" for name, value in parameters.items()]
        )
    if codec.max_crf is not None:
        options["crf"] = str(codec.crf if video.crf is None else video.crf)
    return options


def configure(context: av.VideoCodecContext, video: VideoFormat, *, is_tagged: bool = False) -> None:
    """Sets up an encoder; `is_tagged` gives it the code that MP4 and MOV want.

    Raises:
      ValueError: the picture is too small.
    """
    codec = CODECS[video.codec]
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder reports to stderr otherwise
    if min(video.encoded_size) < codec.smallest:
        raise ValueError(
            f"a picture of {video.width}x{video.height} is too small for {video.codec}, which needs "
            f"{codec.smallest}x{codec.smallest} pixels"
        )
    context.height, context.width = video.encoded_size
    context.pix_fmt = video.encoded_format
    context.thread_type = "AUTO"  # slices as threads, the default, cost quality
    context.framerate = video.rate
    context.time_base = video.time_base
    context.sample_aspect_ratio = video.sample_aspect_ratio
    if video.rate * video.time_base != 1:
        # With frames stored out of order MP4 would count a varying rate's durations in the wrong order.
        context.max_b_frames = 0
    if codec.tag and is_tagged:
        context.codec_tag = codec.tag
    if not av.VideoFormat(video.encoded_format).is_rgb:
        tags = colour.output_tags(video.colour_tags)
        context.colorspace, context.color_range = tags.matrix, colour.LIMITED_RANGE
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer


class FrameMaker:
    """Makes of pictures what an encoder is given, in any thread: each has a converter of its own."""

    def __init__(self, video: VideoFormat):
        self._video = video
        self._own = threading.local()

    def make(self, image: np.ndarray) -> av.VideoFrame:
        """Returns a frame of uint8 or uint16 [H, W, 3], cropped to the size that is encoded."""
        if not hasattr(self._own, "maker"):
            tags = colour.output_tags(self._video.colour_tags)
            self._own.maker = colour.FrameMaker(self._video.encoded_format, tags)
        height, width = self._video.encoded_size
        return self._own.maker.make(image[:height, :width])


class VideoEncoder:
    """Turns frames into packets that stand alone: the first begins with a key frame.

    Their decoding times are the encoder's own and of no use beside those of another (see `packet_store`).

    Args:
      video: what to make.
      has_global_header: whether the file's format keeps what a decoder needs in its header.
    """

    def __init__(self, video: VideoFormat, *, has_global_header: bool):
        self._video = video
        self._durations = {}  # stamp -> duration, for packets that leave the encoder later
        self._context = av.CodecContext.create(CODECS[video.codec].encoder, "w")
        configure(self._context, video)
        self._context.options = encoder_options(video)
        if has_global_header:
            self._context.flags |= av.codec.context.Flags.global_header

    def encode(self, frame: av.VideoFrame, stamp: int, duration: int) -> Iterator[av.Packet]:
        """Yields the packets that are ready after one more frame.

        Args:
          frame: from `FrameMaker`.
          stamp: when it is shown in units of the format's time base; must rise.
          duration: for how long, in the same units.
        """
        frame.pts, frame.time_base = stamp, self._video.time_base
        self._durations[stamp] = duration
        yield from self._finish(self._context.encode(frame))

    def flush(self) -> Iterator[av.Packet]:
        """Yields the last packets; the encoder is of no use after that."""
        yield from self._finish(self._context.encode(None))

    def _finish(self, packets):
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts)
            yield packet
