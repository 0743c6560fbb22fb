"""Reads pictures of any usual kind as RGB: grey, palettes, transparency, 16-bit grey, turned by a camera."""

import pathlib
import re

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
_GREY_16 = ("I;16", "I;16L", "I;16B", "I")


def list_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the pictures of a folder, ordered by the numbers in their names; hidden files are left out."""
    files = (f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    return sorted(files, key=natural_key)


def natural_key(path: pathlib.Path) -> list:
    """Returns a sort key by which frame2.png comes before frame10.png."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def read_size(file: pathlib.Path) -> tuple[int, int]:
    """Returns (H, W), upright, from a picture's header.

    Raises:
      ValueError: it is no picture, or of real numbers, whose range nobody knows.
    """
    try:
        with Image.open(file) as picture:
            if picture.mode == "F":
                raise ValueError(f"input picture {file} has real numbers; save it with 8 or 16 bits")
            width, height = picture.size
            # EXIF orientations that swap the sides.
            is_turned = _has_exif(picture) and picture.getexif().get(0x0112, 1) >= 5
    except OSError as error:
        raise ValueError(f"input picture {file} cannot be read: {error}") from error
    return (width, height) if is_turned else (height, width)


def has_alpha(file: pathlib.Path) -> bool:
    """Whether a picture has transparency."""
    with Image.open(file) as picture:
        return picture.has_transparency_data


def read_picture(file: pathlib.Path) -> np.ndarray:
    """Returns uint8 [H, W, 3], upright; what is transparent lies on black, 16-bit grey is reduced to 8.

    Raises:
      ValueError: the picture is damaged.
    """
    try:
        with Image.open(file) as picture:
            if _has_exif(picture):
                picture = ImageOps.exif_transpose(picture)
            if picture.mode in _GREY_16:
                values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
                grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            if picture.has_transparency_data:
                black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
                picture = Image.alpha_composite(black, picture.convert("RGBA"))
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow raises the latter for damaged PNGs
        raise ValueError(f"input picture {file} cannot be read: {error}") from error


def _has_exif(picture):
    """Whether the header holds EXIF; of a PNG Pillow would decode everything to look behind the pixels too."""
    return picture.format != "PNG" or "exif" in picture.info
