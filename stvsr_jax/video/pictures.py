"""Reads pictures of any usual kind as RGB: grey, palettes, transparency, 16 bits, turned by a camera.

What `video.colour` says of video holds here too: what is transparent lies on black, and pictures of more than 8 bits
keep them until they are rounded. Pillow reads them, but takes the upper 8 of 16 bits where there is more than grey;
FFmpeg reads those.
"""

import contextlib
import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from stvsr_jax.video import colour, decoding, media
from stvsr_jax.video.errors import OUT_OF_RESOURCES, ClipError

_GREY_16 = ("I;16", "I;16L", "I;16B", "I")
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 0x0102  # tags of EXIF and TIFF
# What Pillow raises for damaged files; a SyntaxError is one of a PNG's.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a picture is.

    Attributes:
      height: rows, upright.
      width: columns, upright.
      bit_depth: 8 or 16 bits per component.
    """

    height: int
    width: int
    bit_depth: int


def read_header(file: str | os.PathLike) -> Header:
    """Returns what the header of a picture says.

    Raises:
      OSError: it is no picture.
      ValueError: it is one of real numbers, whose range nobody knows.
    """
    with Image.open(file) as picture:
        if picture.mode == "F":
            raise ValueError("it has real numbers; save it with 8 or 16 bits")
        width, height = picture.size
        # EXIF orientations that swap the sides.
        is_turned = _has_exif(picture) and picture.getexif().get(_ORIENTATION, 1) >= 5
        is_deep = picture.mode in _GREY_16 or _hides_16_bits(picture, file)
    return Header(*((width, height) if is_turned else (height, width)), 16 if is_deep else 8)


def is_transparent(file: str | os.PathLike) -> bool:
    """Whether a picture is transparent anywhere."""
    with Image.open(file) as picture:
        return picture.has_transparency_data and picture.convert("RGBA").getextrema()[3][0] < 255


def read_picture(file: str | os.PathLike) -> np.ndarray:
    """Returns a picture, upright, as RGB: uint8 [H, W, 3], or uint16 if it has 16 bits.

    Raises:
      OSError, SyntaxError, ValueError: it is damaged.
    """
    with Image.open(file) as picture:
        if _hides_16_bits(picture, file):
            return _read_16_bits(file)
        if _has_exif(picture):
            picture = ImageOps.exif_transpose(picture)
        if picture.mode in _GREY_16:
            values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535).astype(np.uint16)
            return np.repeat(values[..., None], 3, axis=2)
        if picture.has_transparency_data:
            return colour.on_black(np.asarray(picture.convert("RGBA")))
        return np.asarray(picture.convert("RGB"))


def _read_16_bits(file):
    with media.open_to_read(file) as container:
        frame = next(container.decode(video=0))
    rgb = colour.RgbConverter(colour.read_tags(frame)).to_rgb(frame, is_deep=True)
    return decoding.make_upright(rgb, decoding.read_orientation(frame))


def _hides_16_bits(picture, file):
    """Whether a picture has 16 bits of which Pillow would give 8."""
    if picture.mode in _GREY_16:
        return False
    if picture.format == "PNG":
        with open(file, "rb") as header:
            return header.read(25)[24] == 16
    return picture.format == "TIFF" and 16 in np.atleast_1d(picture.tag_v2.get(_BITS_PER_SAMPLE, 8))


def _has_exif(picture):
    """Whether the header holds EXIF; of a PNG Pillow would decode everything to look behind the pixels too."""
    return picture.format != "PNG" or "exif" in picture.info


@contextlib.contextmanager
def naming_damage(path: str | os.PathLike, kind: str = "image") -> Iterator[None]:
    """Turns the errors of reading an image into a ClipError, or an OSError if the machine is at fault."""
    try:
        yield
    except _DAMAGE as error:
        if getattr(error, "errno", None) in OUT_OF_RESOURCES:
            raise
        # Pillow's message names the file once more, or the object it was read through.
        why = f"it is no {kind}" if isinstance(error, UnidentifiedImageError) else error
        article = "an" if kind[0] in "aeiou" else "a"
        raise ClipError(f"{path} cannot be read as {article} {kind}: {why}") from error
