"""When packets of sound and subtitles are played: times that rise, whatever the file says.

Recordings that were joined (`cat a.ts b.ts`, VOBs) start their clock again in the middle, damaged ones have single
packets with wild times, and some files give two packets one time. All times are seconds.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

# Sound that begins this much earlier or later than the packet before ends has jumped.
_JUMP = Fraction(3, 10)
# A leap of the picture's clock explains one of the sound that then goes on within this.
_JOIN = Fraction(2)


@dataclasses.dataclass(frozen=True)
class Heard:
    """Time and duration of a packet, as its file has them.

    Attributes:
      time: presentation time by the file's clock, seconds; None if unknown.
      duration: seconds, 0 if unknown.
    """

    time: Fraction | None
    duration: Fraction


class SoundTimes:
    """Places the packets of a sound stream one after the other.

    Gaps are kept. If one packet's time is wrong but the next one's fits, it follows its predecessor. If the clock starts
    again, the sound continues.

    Args:
      shifts: what to add to the clock in each part of the file, in order; the first applies at the beginning.
    """

    def __init__(self, shifts: Sequence[Fraction] = (Fraction(0),)):
        self._shifts = list(shifts)
        self._own_shift = Fraction(0)  # for clocks that start again in this stream alone
        self._last = None
        self._end = Fraction(0)

    def place(self, packet: Heard, following: Heard | None) -> Fraction:
        """Returns when a packet begins; `following` is the one after it, None at the end."""
        time = self._end if packet.time is None else packet.time + self._shift
        if self._last is not None and packet.time is not None:
            if abs(time - self._end) > _JUMP:
                time = self._after_jump(packet, following)
            if time <= self._last:
                time = max(self._end, self._last)
        self._last, self._end = time, time + packet.duration
        return time

    @property
    def _shift(self):
        return self._shifts[0] + self._own_shift

    def _after_jump(self, packet, following):
        if following and following.time is not None:
            goes_along = abs(following.time - packet.time - packet.duration) <= _JUMP
            returns = abs(following.time + self._shift - self._end - packet.duration) <= _JUMP
            if returns and not goes_along:
                return self._end
        ahead = packet.time + self._shift > self._end
        for number, shift in enumerate(self._shifts[1:], 1):
            distance = packet.time + self._own_shift + shift - self._end
            # A part may begin after silence; where a leap is left out the sound goes on.
            if -_JUMP <= distance <= _JOIN if ahead else distance >= -_JUMP:
                del self._shifts[:number]
                return packet.time + self._shift
        if not ahead:
            self._own_shift += self._end - packet.time - self._shift
        return packet.time + self._shift


class SubtitleTimes:
    """Places the packets of a stream whose pauses are no gaps.

    Args:
      shifts: as of `SoundTimes`.
    """

    def __init__(self, shifts: Sequence[Fraction] = (Fraction(0),)):
        self._shifts = list(shifts)
        self._last = None

    def place(self, packet: Heard) -> Fraction:
        """Returns when a packet begins."""
        if packet.time is None:
            return self._last or Fraction(0)
        while self._last is not None and packet.time + self._shifts[0] < self._last and len(self._shifts) > 1:
            del self._shifts[0]
        time = packet.time + self._shifts[0]
        self._last = time if self._last is None else max(time, self._last)
        return self._last
