"""HDR10's static metadata: the display a video was mastered on (SMPTE ST 2086), and how bright it gets (CTA-861.3).

Encoders write it into their streams, so that it is there in every container.
"""

import dataclasses
import struct
from fractions import Fraction

import av

# Names of frame data that describe the picture scene by scene, which only the input's own pictures fit.
_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
}

Point = tuple[Fraction, Fraction]


@dataclasses.dataclass(frozen=True)
class MasteringDisplay:
    """A display.

    Attributes:
      red, green, blue, white: CIE 1931 (x, y).
      darkest, brightest: candelas per square metre.
    """

    red: Point
    green: Point
    blue: Point
    white: Point
    darkest: Fraction
    brightest: Fraction


@dataclasses.dataclass(frozen=True)
class Hdr:
    """What a stream says beyond its colour tags.

    Attributes:
      display: None if it does not say, or not all of it.
      light: (MaxCLL, MaxFALL) in candelas per square metre, or None.
      dynamic: names of metadata that change with the scene.
    """

    display: MasteringDisplay | None = None
    light: tuple[int, int] | None = None
    dynamic: tuple[str, ...] = ()

    @property
    def is_static(self) -> bool:
        """Whether there is anything that holds for the whole stream."""
        return self.display is not None or self.light is not None


def read_hdr(frame: av.VideoFrame) -> Hdr:
    """Returns what comes with a decoded frame."""
    try:
        data = {item.type.name: bytes(item) for item in frame.side_data}
    except ValueError:  # PyAV does not know all kinds, and then names none
        return Hdr()
    display = light = None
    if "MASTERING_DISPLAY_METADATA" in data:
        *values, has_primaries, has_luminance = struct.unpack("=20i2i", data["MASTERING_DISPLAY_METADATA"])
        if has_primaries and has_luminance and all(values[1::2]):
            ratios = [Fraction(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
            points = list(zip(ratios[0:8:2], ratios[1:8:2], strict=True))
            display = MasteringDisplay(*points, *ratios[8:])
    if "CONTENT_LIGHT_LEVEL" in data:
        light = struct.unpack("=2I", data["CONTENT_LIGHT_LEVEL"])
        light = light if any(light) else None  # what x265 writes for "unknown"
    return Hdr(display, light, tuple(dict.fromkeys(_DYNAMIC[name] for name in data if name in _DYNAMIC)))


def encoder_parameters(encoder: str, hdr: Hdr) -> dict[str, str] | None:
    """Returns what makes an encoder write `hdr`, by the names of its own parameters; None if it cannot.

    Args:
      encoder: FFmpeg's name.
      hdr: to write; `dynamic` is not.
    """
    if encoder not in _PARAMETERS:
        return None
    display_name, light_name, points_per_unit, levels_per_unit = _PARAMETERS[encoder]
    parameters = {}
    if hdr.display:
        one = hdr.display
        points = [
            f"{name}({_count(x, points_per_unit)},{_count(y, points_per_unit)})"
            for name, (x, y) in (("G", one.green), ("B", one.blue), ("R", one.red), ("WP", one.white))
        ]
        brightest, darkest = (_count(level, levels_per_unit) for level in (one.brightest, one.darkest))
        parameters[display_name] = f"{''.join(points)}L({brightest},{darkest})"
    if hdr.light:
        parameters[light_name] = ",".join(map(str, hdr.light))
    return parameters


def _count(value, per_unit):
    return f"{float(value):.5f}" if per_unit is None else str(round(value * per_unit))


# Names of the two parameters, and in how many steps to 1 coordinates and candelas are counted; None takes numbers.
_PARAMETERS = {
    "libx264": ("mastering-display", "cll", 50000, 10000),
    "libx265": ("master-display", "max-cll", 50000, 10000),
    "libsvtav1": ("mastering-display", "content-light", None, None),
}
