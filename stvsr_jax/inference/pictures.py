"""Reads pictures of any usual kind as RGB: grey, palettes, transparency, 16-bit grey, turned by a camera."""

import pathlib

import numpy as np
from PIL import Image, ImageOps

from stvsr_jax.data import colour, frame_folder

_GREY_16 = ("I;16", "I;16L", "I;16B", "I")


def list_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the pictures of a folder, ordered by the numbers in their names; hidden files are left out."""
    return sorted((folder / name for name in frame_folder.list_images(folder)), key=natural_key)


def natural_key(path: pathlib.Path) -> list:
    """Returns a sort key by which frame2.png comes before Frame10.png."""
    return frame_folder.natural_key(path.name.lower())


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
                grey = colour.to_8_bits(values.astype(np.uint16))
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
