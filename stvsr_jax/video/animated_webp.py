"""Frames of an animated WebP, which FFmpeg does not read. Its times are milliseconds."""

import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageSequence

from stvsr_jax.video import colour

_ANIMATION_FLAG = 0x02


def is_animated_webp(path: pathlib.Path) -> bool:
    """Whether a file is one, by its header."""
    with open(path, "rb") as file:
        header = file.read(21)
    return header[:4] == b"RIFF" and header[8:16] == b"WEBPVP8X" and bool(header[20] & _ANIMATION_FLAG)


def read_durations(path: pathlib.Path) -> list[int]:
    """Returns for how many milliseconds each frame is shown, at least one, without decoding any."""
    durations = []
    with open(path, "rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            end = file.tell() + size + size % 2
            if chunk[:4] == b"ANMF":
                header = file.read(16)
                durations.append(max(1, int.from_bytes(header[12:15], "little")))
            file.seek(end)
    return durations


def read_images(path: pathlib.Path) -> Iterator[np.ndarray]:
    """Yields the frames as uint8 [H, W, 3], what is transparent on black."""
    for rgba in _read_rgba(path):
        yield colour.on_black(rgba)


def is_transparent(path: pathlib.Path) -> bool:
    """Whether the first frame is transparent anywhere."""
    return bool((next(_read_rgba(path))[..., 3] < 255).any())


def _read_rgba(path):
    with Image.open(path) as animation:
        for frame in ImageSequence.Iterator(animation):
            yield np.asarray(frame.convert("RGBA"))
