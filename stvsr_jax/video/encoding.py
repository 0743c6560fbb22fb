"""Encodes frames: an encoder that gives packets without a file.

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

from stvsr_jax.video import colour, plane_layout
from stvsr_jax.video.codecs import CODECS
from stvsr_jax.video.hdr import Hdr, encoder_parameters


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
      preset: speed against size, None for the codec's default.
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
    preset: str | None = None
    pixel_format: str | None = None
    is_deep: bool = False
    colour_tags: colour.ColourTags = colour.PICTURES
    hdr: Hdr = Hdr()
    sample_aspect_ratio: Fraction = Fraction(1)
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    language: str = ""
    timecode: str = ""

    @property
    def has_constant_rate(self) -> bool:
        """Whether every frame is one unit of time after another."""
        return self.rate * self.time_base == 1

    @property
    def encoded_format(self) -> str:
        """The pixel format that is encoded."""
        codec = CODECS[self.codec]
        return self.pixel_format or (codec.deep_format if self.is_deep else codec.pixel_formats[0])

    @property
    def layout(self) -> plane_layout.Layout | None:
        """Of the planes that are encoded, None where they are not of YCbCr."""
        return plane_layout.layout_of(self.encoded_format, colour.output_tags(self.colour_tags).matrix)

    @property
    def encoded_size(self) -> tuple[int, int]:
        """(H, W) that are encoded, as far as the pixel format allows."""
        subsampling = plane_layout.subsampling_of(self.encoded_format)
        return plane_layout.encoded_size((self.height, self.width), subsampling)


def encoder_options(video: VideoFormat) -> dict[str, str]:
    """Returns the encoder's options."""
    codec = CODECS[video.codec]
    options = dict(codec.options)
    parameters = [options[codec.parameters]] if codec.parameters in options else []
    of_hdr = encoder_parameters(codec.encoder, video.hdr) or {}
    parameters += [f"{name}={value}" for name, value in of_hdr.items()]
    if codec.smallest_parameters and min(video.encoded_size) <= codec.smallest:
        parameters.append(codec.smallest_parameters)
    if parameters:
        options[codec.parameters] = ":".join(parameters)
    if codec.max_crf is not None:
        options[codec.quality] = str(codec.crf if video.crf is None else video.crf)
    if video.preset is not None:
        options["preset"] = video.preset
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
    context.thread_count = codec.threads
    context.framerate = video.rate
    context.time_base = video.time_base
    context.sample_aspect_ratio = video.sample_aspect_ratio
    if not video.has_constant_rate:
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
        """Returns a frame of uint8 or uint16 [H, W, 3], cropped to the size that is encoded, or of packed planes, [n]."""
        size, tags = self._video.encoded_size, colour.output_tags(self._video.colour_tags)
        name = self._video.encoded_format
        if image.ndim == 1:
            unpacked = plane_layout.unpack(image, size, self._video.layout)
            return colour.planes_to_frame(unpacked, name, tags)
        if not hasattr(self._own, "maker"):
            self._own.maker = colour.FrameMaker(name, tags)
        return self._own.maker.make(image[: size[0], : size[1]])


class VideoEncoder:
    """Turns frames into packets that stand alone: the first begins with a key frame.

    Their decoding times begin anew with each encoder; `packet_store` makes others.

    Args:
      video: what to make.
      has_global_header: whether the file's format keeps what a decoder needs in its header.
    """

    def __init__(self, video: VideoFormat, *, has_global_header: bool):
        self._video = video
        self._durations = {}  # pts -> duration, for packets that leave the encoder later
        self._context = av.CodecContext.create(CODECS[video.codec].encoder, "w")
        configure(self._context, video)
        self._context.options = encoder_options(video)
        if has_global_header:
            self._context.flags |= av.codec.context.Flags.global_header

    def encode(self, frame: av.VideoFrame, pts: int, duration: int) -> Iterator[av.Packet]:
        """Yields the packets that are ready after one more frame.

        Args:
          frame: from `FrameMaker`.
          pts: presentation time in units of the format's time base; must rise.
          duration: in the same units.
        """
        frame.pts, frame.time_base = pts, self._video.time_base
        self._durations[pts] = duration
        yield from self._finish(self._context.encode(frame))

    def flush(self) -> Iterator[av.Packet]:
        """Yields the last packets; the encoder is of no use after that."""
        yield from self._finish(self._context.encode(None))

    def _finish(self, packets):
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts)
            yield packet
