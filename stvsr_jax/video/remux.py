"""Carries the sound and subtitles of an input over to an output.

Packets are copied untouched, or sound is converted, as their `Treatment`s say; `rehearsal` chooses those. Their times
rise (`side_times`). A packet that the container refuses, as a damaged one may be, is left out and counted.
"""

import dataclasses
import errno
import pathlib
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av

from stvsr_jax.video import media, side_times, sound_converter

# Hidden sound before an edit list's beginning that a decoder may want to have heard, seconds.
_PRIMING = Fraction(1, 10)
# Formats that hide what comes before time 0. Others move the picture to make room for it, and play it.
_HIDE_WHAT_COMES_BEFORE = ("mp4", "mov", "ipod")
# Errors of the disk or the machine rather than of what is written.
_MACHINE_ERRORS = (
    *(errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR, errno.ESTALE),
)


def is_of_the_machine(error: BaseException) -> bool:
    """Whether an error says nothing about what was written: a full disk, say."""
    return getattr(error, "errno", None) in _MACHINE_ERRORS


@dataclasses.dataclass(frozen=True)
class SideStream:
    """A stream of sound or subtitles.

    Attributes:
      index: in its file.
      kind: "audio" or "subtitle".
      label: for messages: kind, index and codec.
      can_convert: whether its codec is known.
      layout: of its channels, None if they have no usual one or it is no sound.
    """

    index: int
    kind: str
    label: str
    can_convert: bool
    layout: str | None


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What becomes of a stream.

    Attributes:
      stream: of the input.
      codec: encoder that sound is converted with, None to copy.
      layout: of the channels that are encoded.
    """

    stream: SideStream
    codec: str | None = None
    layout: str | None = None


def list_streams(source: pathlib.Path) -> tuple[list[SideStream], list[str]]:
    """Returns the sound and subtitles of a file, and a note on each stream of another kind but time codes."""
    found, notes = [], []
    with media.open_to_read(source) as container:
        for stream in container.streams:
            if stream.type in ("audio", "subtitle"):
                found.append(_describe(stream))
            elif stream.type != "video" and "timecode" not in stream.metadata:
                notes.append(f"{stream.type} stream {stream.index} is left out")
    return found, notes


class SideStreams:
    """The streams of an input other than its picture, on their way into an output.

    Args:
      source: the input file; not opened without treatments.
      output: container to add the streams to, before anything is written to it.
      treatments: of the streams that are carried over.
      origin: seconds of the input's clock that are time 0 of the output.
      shifts: what to add to the input's clock in each of its parts, see `side_times`.
      packet_limit: of each sound stream read no more than this.

    Attributes:
      written: how many packets of each stream there are in the output, by index.
      refused: how many packets of each stream were left out, by index.
      kinds: (type, codec) of each stream in the output, by index.
    """

    def __init__(
        self,
        source: pathlib.Path | None,
        output: av.container.OutputContainer,
        treatments: Sequence[Treatment],
        *,
        origin: Fraction,
        shifts: Sequence[Fraction] = (Fraction(0),),
        packet_limit: int | None = None,
    ):
        self._output = output
        self._origin, self._shifts, self._packet_limit = origin, shifts, packet_limit
        self._treatments = {treatment.stream.index: treatment for treatment in treatments}
        self.written = dict.fromkeys(self._treatments, 0)
        self._refused = dict.fromkeys(self._treatments, 0)
        self._last = {}  # input stream index -> last time in the output, in ticks
        self.kinds = {}
        self._targets, self._converters, self._sieves = {}, {}, {}
        self._container = media.open_to_read(source) if treatments else None
        try:
            for index, treatment in self._treatments.items():
                self._add(self._container.streams[index], treatment)
            self._packets = self._read_packets()
            self._next = next(self._packets, None)
        except BaseException:
            self.close()
            raise

    @property
    def refused(self) -> dict[int, int]:
        damaged = {index: converter.damaged for index, converter in self._converters.items()}
        return {index: count + damaged.get(index, 0) for index, count in self._refused.items()}

    def mux_until(self, time: Fraction | None) -> None:
        """Writes the packets that begin before `time` seconds; None writes all that are left."""
        while self._next is not None and (time is None or self._next[0] < time):
            self._mux(*self._next)
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Writes what converters still hold."""
        for index, converter in self._converters.items():
            for packet in converter.flush():
                self._write(index, packet, packet.pts * packet.time_base)

    def close(self) -> None:
        if self._container:
            self._container.close()
        for sieve in self._sieves.values():
            sieve.close()

    def _add(self, stream, treatment):
        if treatment.codec is None:
            target = _copy_stream(stream, self._output, treatment.layout)
            if stream.type == "audio":
                self._sieves[stream.index] = _Sieve(stream, self._output.format.name, treatment.layout)
        else:
            target = sound_converter.add_stream(
                self._output,
                treatment.codec,
                rate=stream.codec_context.sample_rate,
                layout=treatment.layout,
            )
            self._converters[stream.index] = sound_converter.SoundConverter(target.codec_context)
        target.metadata.update({key: value for key, value in stream.metadata.items() if key != "encoder"})
        target.disposition = stream.disposition
        self._targets[stream.index] = target
        name = av.Codec(treatment.codec, "w").canonical_name if treatment.codec else _codec_name(stream)
        self.kinds[stream.index] = stream.type, name

    def _read_packets(self) -> Iterator[tuple[Fraction, av.Packet]]:
        """Yields (time in the output, packet)."""
        if not self._targets:
            return
        times = {
            index: side_times.SoundTimes(self._shifts)
            if treatment.stream.kind == "audio"
            else side_times.SubtitleTimes(self._shifts)
            for index, treatment in self._treatments.items()
        }
        counts = {index: 0 for index, target in self._targets.items() if target.type == "audio"}
        held = {}  # sound waits for its next packet, which says whether its time can be trusted
        for packet in self._container.demux([self._container.streams[index] for index in self._targets]):
            if not packet.size:
                continue
            index, heard = packet.stream_index, self._read_times(packet)
            if index not in counts:
                yield times[index].place(heard), packet
                continue
            if packet.is_discard and self._would_be_heard(index, heard):
                continue
            if index in held:
                yield times[index].place(held[index][0], heard), held[index][1]
            held[index] = heard, packet
            counts[index] += 1
            if self._packet_limit is not None and min(counts.values()) >= self._packet_limit:
                break
        last = [(times[index].place(heard, None), packet) for index, (heard, packet) in held.items()]
        yield from sorted(last, key=lambda placed: placed[0])

    def _would_be_heard(self, index, heard):
        """Whether the output would play sound that an edit list of the input hides."""
        hides = index in self._converters or self._output.format.name in _HIDE_WHAT_COMES_BEFORE
        if not hides or heard.time is None:
            return True
        return heard.time >= 0 or heard.time + heard.duration < -_PRIMING

    def _read_times(self, packet):
        start = packet.pts if packet.dts is None else packet.dts
        return side_times.Heard(
            None if start is None else start * packet.time_base - self._origin,
            max(packet.duration or 0, 0) * packet.time_base,
        )

    def _mux(self, time, packet):
        index = packet.stream_index
        if index in self._converters:
            for encoded in self._converters[index].convert(packet, time):
                self._write(index, encoded, encoded.pts * encoded.time_base)
        elif index in self._sieves and not self._sieves[index].passes(packet):
            self._refused[index] += 1
        else:
            self._write(index, packet, time)

    def _write(self, index, packet, time):
        target = self._targets[index]
        tick = round(time / target.time_base)
        if index in self._last:  # times of subtitles may be equal
            tick = max(tick, self._last[index] + (target.type == "audio"))
        self._last[index] = tick
        duration = round((packet.duration or 0) * packet.time_base / target.time_base)
        packet.stream = target
        packet.time_base, packet.pts, packet.dts, packet.duration = target.time_base, tick, tick, duration
        self._output.mux_one(packet)
        self.written[index] += 1


class _Sieve:
    """A container of the output's format for one stream alone, whose bytes are thrown away.

    The output would refuse the same packets, but only later, while a packet of another stream is written.
    """

    def __init__(self, stream, format_name, layout):
        self._container = media.open_to_nowhere(format_name)
        self._count = 0
        try:
            self._target = _copy_stream(stream, self._container, layout)
            self._container.start_encoding()
        except (av.FFmpegError, ValueError):  # formats that want a picture first
            self._target = None

    def passes(self, packet):
        if self._target is None:
            return True
        time_base = packet.time_base
        packet.stream, packet.time_base = self._target, self._target.time_base
        packet.pts = packet.dts = self._count
        self._count += 1
        try:
            self._container.mux_one(packet)
        except av.FFmpegError:
            return False
        finally:
            packet.time_base = time_base
        return True

    def close(self):
        close_quietly(self._container)


def close_quietly(container: av.container.OutputContainer) -> None:
    """Closes a container whose file is not kept."""
    try:
        container.close()
    except (av.FFmpegError, ValueError, OSError):
        pass  # it need not be closed in order


def _copy_stream(stream, output, layout):
    target = output.add_stream_from_template(stream)
    if layout is not None and "channels" in stream.codec_context.layout.name:
        target.codec_context.layout = layout
    return target


def _describe(stream):
    context = stream.codec_context
    layout = None
    if stream.type == "audio" and context:
        try:
            layout = sound_converter.named_layout(context.layout)
        except ValueError:
            pass  # it can be copied
    return SideStream(
        stream.index,
        stream.type,
        f"{stream.type} stream {stream.index} ({_codec_name(stream) or 'unknown'})",
        context is not None and stream.type == "audio",
        layout,
    )


def kind_of(stream: av.stream.Stream) -> tuple[str, str | None]:
    """Returns (type, codec) of a stream."""
    return stream.type, _codec_name(stream)


def _codec_name(stream):
    return stream.codec_context.codec.canonical_name if stream.codec_context else None
