"""Carries the sound and subtitles of an input over to an output.

Packets are copied untouched, with their times. Sound in a codec that the output container does not allow
(Windows Media audio in MP4) is converted to one that it does; subtitles in that position are left out. What
was converted or left out is listed in `notes`.
"""

import pathlib
from collections.abc import Iterator
from fractions import Fraction

import av

from stvsr_jax.data import media

# Encoder and sample rate (None: the input's) for sound that cannot be copied.
_CONVERSIONS = {"webm": ("libopus", 48000)}
_USUAL_CONVERSION = ("aac", None)


class SideStreams:
    """The streams of an input other than its picture, on their way into an output.

    Args:
      source: the input file.
      output: container to add the streams to, before anything is written to it.
      origin: seconds of the input's clock that are time 0 of the output.

    Attributes:
      notes: what could not be copied, one line each.
    """

    def __init__(self, source: pathlib.Path, output: av.container.OutputContainer, *, origin: Fraction):
        self.notes = []
        self._output = output
        self._origin = origin
        self._container = media.open_to_read(source)
        self._targets = {}  # input stream index -> (output stream, whether it is encoded anew)
        for stream in self._container.streams:
            if stream.type in ("audio", "subtitle"):
                self._add(stream)
            elif stream.type != "video":
                self.notes.append(f"{stream.type} stream {stream.index} is left out")
        self._packets = self._read_packets()
        self._next = next(self._packets, None)

    def mux_until(self, time: Fraction | None) -> None:
        """Writes the packets that begin before `time` seconds; None writes all that are left."""
        while self._next is not None and (time is None or self._next[0] < time):
            self._mux(self._next[1])
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Writes what converters still hold."""
        for target, is_encoded in self._targets.values():
            if is_encoded:
                self._output.mux(target.encode(None))

    def close(self) -> None:
        self._container.close()

    def _add(self, stream):
        codec_name = stream.codec_context.name if stream.codec_context else "unknown"
        name = f"{stream.type} stream {stream.index} ({codec_name})"
        try:
            target, is_encoded = self._output.add_stream_from_template(stream), False
        except ValueError:
            if stream.type != "audio" or stream.codec_context is None:
                self.notes.append(f"{name} does not fit {self._output.format.name} and is left out")
                return
            codec, rate = _CONVERSIONS.get(self._output.format.name, _USUAL_CONVERSION)
            target, is_encoded = (
                self._output.add_stream(codec, rate=rate or stream.codec_context.sample_rate),
                True,
            )
            target.codec_context.layout = _named_layout(stream.codec_context.layout)
            self.notes.append(f"{name} does not fit {self._output.format.name} and is converted to {codec}")
        target.metadata.update({key: value for key, value in stream.metadata.items() if key != "encoder"})
        target.disposition = stream.disposition
        self._targets[stream.index] = target, is_encoded

    def _read_packets(self) -> Iterator[tuple[Fraction, av.Packet]]:
        """Yields (time, packet)."""
        streams = [self._container.streams[index] for index in self._targets]
        if not streams:
            return
        for packet in self._container.demux(streams):
            stamp = packet.pts if packet.dts is None else packet.dts
            if stamp is not None and packet.size:
                yield stamp * packet.time_base - self._origin, packet

    def _mux(self, packet):
        target, is_encoded = self._targets[packet.stream_index]
        shift = round(self._origin / packet.time_base)
        if not is_encoded:
            packet.stream = target
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            self._output.mux_one(packet)
            return
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            return
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= round(self._origin / frame.time_base)
            self._output.mux(target.encode(frame))


def _named_layout(layout: av.AudioLayout) -> str:
    """Returns the name of a layout; some files only say how many channels there are."""
    usual = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
    return usual.get(layout.nb_channels, layout.name) if "channels" in layout.name else layout.name
