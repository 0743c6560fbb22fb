"""SMPTE time codes, hours:minutes:seconds:frames: the label of a recording's first frame."""

import re
from fractions import Fraction

_TIME_CODE = re.compile(r"(\d\d:[0-5]\d:[0-5]\d)([:;.])(\d\d)")
# A file has one byte for frames per second.
_MOST_FRAMES = 255


def rescale(text: str, rate: Fraction, out_rate: Fraction) -> str | None:
    """Returns the time code of the same instant at another rate, None if it has none.

    A semicolon or full stop before the frames says that numbers are dropped to keep up with the clock, which is
    defined for 30000/1001 frames per second and its multiples.

    Args:
      text: the time code.
      rate: frames per second that it counts.
      out_rate: frames per second to count.
    """
    match = _TIME_CODE.fullmatch(text.strip())
    nominal, out_nominal = round(rate), round(out_rate)
    if match is None or not 1 <= nominal or not 1 <= out_nominal <= _MOST_FRAMES:
        return None
    clock, separator, frames = match[1], match[2], int(match[3])
    if frames >= nominal:
        return None
    if separator != ":" and (out_nominal % 30 or Fraction(out_nominal * 1000, 1001) != out_rate):
        return None
    return f"{clock}{separator}{frames * out_nominal // nominal:02d}"
