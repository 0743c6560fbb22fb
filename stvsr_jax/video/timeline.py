"""Timestamps (pts and dts) of files that start again or leap: what follows goes on where the part before ends.

Two recordings put together (`cat a.ts b.ts`, the cells of a DVD, a receiver that was set anew) have timestamps
that fall back, or leap ahead, where the second begins. Decoding times rise in any one recording, so where they
fall a part begins; a leap is a long gap between presentation times.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np

from stvsr_jax.video import joined_files, media

# Where a timestamp falls back by more than this, a part begins: decoding times never do. Without decoding times it
# is more than the deepest reordering of frames.
_STEP_BACK = Fraction(1, 10)
_STEP_BACK_UNORDERED = Fraction(1)
# A longer gap, in seconds, is a leap in formats that are cut and joined, unless there is sound in it.
_LEAP = 60
# Behind a gap longer than this, timestamps that are followed by earlier ones are damaged, in any format.
_WILD = 1


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a file in which timestamps rise.

    Attributes:
      first_packet: number of its first packet in the video stream.
      shift: seconds to add to its timestamps.
      leaps: (timestamp in seconds, seconds that are too many from there on), ascending.
    """

    first_packet: int
    shift: Fraction
    leaps: tuple[tuple[Fraction, Fraction], ...] = ()

    def move(self, time: Fraction) -> Fraction:
        """Returns when what has this timestamp, in seconds, comes."""
        return time + self.shift - sum(length for start, length in self.leaps if start <= time)


@dataclasses.dataclass(frozen=True)
class Timeline:
    """What to make of a file's timestamps; nothing if they can be taken as they are, which is nearly always.

    Attributes:
      parts: of the file; none if its timestamps only rise.
      shows_as_decoded: whether frames are shown at their decoding times; the presentation times are guesses.
    """

    parts: tuple[Part, ...] = ()
    shows_as_decoded: bool = False

    @property
    def shifts(self) -> tuple[Fraction, ...]:
        """What to add to the timestamps, seconds: at the beginning, and after each restart and leap."""
        shifts = []
        for part in self.parts:
            shifts.append(part.shift)
            for _, length in part.leaps:
                shifts.append(shifts[-1] - length)
        return tuple(shifts) or (Fraction(0),)

    def move(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Yields all packets of the video stream, in the file's order, with their timestamps moved."""
        number = 0  # of the part
        for count, packet in enumerate(packets):
            while number + 1 < len(self.parts) and self.parts[number + 1].first_packet <= count:
                number += 1
            if self.shows_as_decoded:
                packet.pts = packet.dts
            if self.parts:
                part, base = self.parts[number], packet.time_base
                packet.pts = None if packet.pts is None else round(part.move(packet.pts * base) / base)
                packet.dts = None if packet.dts is None else round(part.move(packet.dts * base) / base)
            yield packet


@dataclasses.dataclass(frozen=True)
class Scan:
    """What the packets of a video stream say.

    Attributes:
      pts: presentation times of all frames, ascending, in the stream's time base, moved as `timeline` says;
        empty if one lacks its own.
      count: how many frames there are.
      first: the earliest presentation time, 0 without any.
      last_duration: for how long the last frame says it is shown, in the same units; 0 if it does not.
      timeline: the parts of the file.
      unread_files: how many files follow behind all this in the same one, and are not read.
    """

    pts: list[int]
    count: int
    first: int
    last_duration: int
    timeline: Timeline
    unread_files: int


def scan_packets(path: str | os.PathLike, stream_index: int) -> Scan:
    """Reads the packets of a file's video stream, and of its sound where that may tell leaps from pauses."""
    facts = []  # (number, dts, pts, duration) of each frame
    heard = set()  # seconds in which there is sound
    number = -1
    start = end = 0  # of the last packet, in bytes
    with media.open_to_read(path) as container:
        is_joinable = bool(container.format.flags & av.format.Flags.ts_discont.value)
        stream = container.streams[stream_index]
        time_base = stream.time_base
        shows_as_decoded = _shows_as_decoded(container, stream)
        format_name = container.format.name
        for packet in container.demux(stream, *(container.streams.audio if is_joinable else ())):
            start, end = max(start, packet.pos or 0), max(end, (packet.pos or 0) + packet.size)
            if packet.stream_index != stream_index:
                if packet.pts is not None:
                    heard.add(int(packet.pts * packet.time_base))
                continue
            number += 1
            if (packet.size or packet.pts is not None) and not packet.is_discard:
                pts = packet.dts if shows_as_decoded else packet.pts
                facts.append((number, packet.dts, pts, packet.duration or 0))
    starts = find_restarts([fact[1:3] for fact in facts], time_base)
    pieces = [facts[a:b] for a, b in zip([0, *starts], [*starts, len(facts)], strict=True)]
    all_pts, parts = _put_in_line(pieces, time_base, heard if is_joinable else None)
    if len(parts) == 1 and not parts[0].leaps:
        parts = ()
    return Scan(
        sorted(all_pts) if len(all_pts) == len(facts) else [],
        len(facts),
        min(all_pts, default=0),
        max(((pts, duration) for *_, pts, duration in pieces[-1] if pts is not None), default=(0, 0))[1],
        Timeline(parts, shows_as_decoded),
        joined_files.count_unread(path, format_name, start, end),
    )


def _shows_as_decoded(container, stream) -> bool:
    """Whether FFmpeg shows each frame when the next one is due: H.264 without B-frames in AVI.

    AVI has decoding times alone. The presentation times that FFmpeg makes up for H.264 are the ends of the frames.
    """
    decoder = stream.codec_context
    return container.format.name == "avi" and decoder.name == "h264" and not decoder.has_b_frames


def find_restarts(times: Sequence[tuple[int | None, int | None]], time_base: Fraction) -> list[int]:
    """Returns the numbers of the frames at which timestamps start again.

    Args:
      times: (dts, pts) of the frames in the file's order.
      time_base: seconds per unit of them.
    """
    has_order = any(dts is not None for dts, _ in times)
    back = (_STEP_BACK if has_order else _STEP_BACK_UNORDERED) / time_base
    starts = []
    last = None
    for i, time in enumerate(dts if has_order else pts for dts, pts in times):
        if time is None:
            continue
        if last is not None and time < last - back:
            starts.append(i)
            last = time
        else:
            last = time if last is None else max(last, time)
    return starts


def _put_in_line(pieces, time_base, heard) -> tuple[list[int], tuple[Part, ...]]:
    """Returns the moved presentation times of all frames that have one, and the parts."""
    shown = [
        np.sort(np.array([pts for *_, pts, _ in piece if pts is not None], np.int64)) for piece in pieces
    ]
    steps = np.concatenate([np.diff(pts) for pts in shown])
    step = int(np.median(steps[steps > 0])) if (steps > 0).any() else round(Fraction(1, 25) / time_base)
    moved, parts, end = [], [], None
    for piece, pts, following in zip(pieces, shown, [*shown[1:], ()], strict=True):
        leaps = []
        line = pts.copy()
        for i in np.flatnonzero(np.diff(pts) * float(time_base) > _WILD):
            before, after = (int(n) * time_base for n in pts[i : i + 2])
            is_wild = len(following) and pts[i] < following[0] < pts[i + 1]
            is_silent = heard is not None and heard.isdisjoint(range(int(before) + 2, int(after) - 1))
            if is_wild or (is_silent and after - before > _LEAP):
                # Sound before the leap may last a little longer, and after it begin a little earlier.
                leaps.append(((before + after) / 2, after - before - step * time_base))
                line[i + 1 :] -= int(pts[i + 1] - pts[i]) - step
        shift = 0 if end is None or not len(line) else end + step - int(line[0])
        parts.append(Part(piece[0][0] if piece else 0, shift * time_base, tuple(leaps)))
        if len(line):
            end = int(line[-1]) + shift
        moved += [int(n) + shift for n in line]
    return moved, tuple(parts)
