"""Encodes sound anew, without gaps: what is missing or damaged becomes silence."""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

# Times within this of where the sound has got to are jitter, seconds.
_JITTER = 0.1
_BITS_PER_CHANNEL = 96_000
# What players take sound of so many channels for, if the file only gives their number.
_USUAL_LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")


def named_layout(layout: av.AudioLayout) -> str:
    """Returns the name of a layout; of one without, the usual one of so many channels.

    Raises:
      ValueError: there is no usual one.
    """
    if "channels" not in layout.name:
        return layout.name
    if not 1 <= layout.nb_channels <= len(_USUAL_LAYOUTS):
        raise ValueError(f"no usual layout has {layout.nb_channels} channels")
    return _USUAL_LAYOUTS[layout.nb_channels - 1]


def add_stream(
    output: av.container.OutputContainer, codec: str, *, rate: int, layout: str
) -> av.audio.stream.AudioStream:
    """Adds a stream for a converter to a container.

    Args:
      output: of which no header is written yet.
      codec: name of an encoder.
      rate: samples per second of the sound given; the nearest common rate if the encoder lacks it.
      layout: of the channels.

    Raises:
      ValueError: the container does not hold the codec.
      av.FFmpegError: the encoder does not know the layout (or when the header is written).
    """
    rates = av.Codec(codec, "w").audio_rates
    if rates and rate not in rates:
        rate = 48000 if 48000 in rates else max(rates)
    stream = output.add_stream(codec, rate=rate)
    stream.codec_context.layout = layout
    stream.codec_context.bit_rate = _BITS_PER_CHANNEL * stream.codec_context.layout.nb_channels
    return stream


class SoundConverter:
    """Decodes packets and encodes what they hold at the times they are given.

    Args:
      context: an encoder, open before the first packet.

    Attributes:
      damaged: how many packets could not be decoded.
    """

    def __init__(self, context: av.AudioCodecContext):
        self.damaged = 0
        self._context = context
        self._rate = context.sample_rate
        self._resampler = None
        self._kind = None  # of the frames that the resampler is made for
        self._position = None  # samples given to the encoder, counted from time 0

    def convert(self, packet: av.Packet, time: Fraction) -> Iterator[av.Packet]:
        """Yields the packets that are ready after one more, which begins at `time` seconds."""
        packet.pts = packet.dts = round(time / packet.time_base)
        try:
            frames = packet.decode()
        except av.FFmpegError:
            self.damaged += 1
            return
        for frame in frames:
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if kind != self._kind:
                yield from self._drain()
                self._kind = kind
                self._resampler = av.AudioResampler(
                    self._context.format, self._context.layout, self._context.sample_rate
                )
            for piece in self._resampler.resample(frame):
                yield from self._encode(piece)

    def flush(self) -> Iterator[av.Packet]:
        """Yields the last packets."""
        yield from self._drain()
        if self._position is not None:
            yield from self._context.encode(None)

    def _drain(self):
        for piece in self._resampler.resample(None) if self._resampler else ():
            yield from self._encode(piece)
        self._resampler = None

    def _encode(self, frame):
        start = None if frame.pts is None else round(frame.pts * frame.time_base * self._rate)
        if self._position is None:
            self._position = start or 0
        if start is not None:
            missing = start - self._position
            if missing > _JITTER * self._rate:
                yield from self._encode_silence(missing)
            elif missing < -_JITTER * self._rate:
                return  # comes again
        yield from self._encode_next(frame)

    def _encode_silence(self, count):
        layout = self._context.layout
        to_format = av.AudioResampler(self._context.format, layout, self._rate)
        while count > 0:
            samples = np.zeros((1, min(count, self._rate) * layout.nb_channels), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, "s16", layout.name)
            frame.sample_rate = self._rate
            count -= frame.samples
            for piece in to_format.resample(frame):
                yield from self._encode_next(piece)

    def _encode_next(self, frame):
        frame.pts, frame.time_base = self._position, Fraction(1, self._rate)
        self._position += frame.samples
        yield from self._context.encode(frame)
