"""A folder of pictures as an input: in which order, and what of one that cannot be read."""

import contextlib
import pathlib
from collections.abc import Iterator

import av
import numpy as np

from stvsr_jax import files
from stvsr_jax.video import pictures


def list_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the pictures of a folder, ordered by the numbers in their names; hidden files are left out."""
    return sorted((folder / name for name in files.list_images(folder)), key=natural_key)


def natural_key(path: pathlib.Path) -> list:
    """Returns a sort key by which frame2.png comes before Frame10.png."""
    return files.natural_key(path.name.lower())


def read_header(file: pathlib.Path) -> pictures.Header:
    """Returns the size and depth of a picture.

    Raises:
      ValueError: it is no picture, or of real numbers, whose range nobody knows.
    """
    with _naming(file):
        return pictures.read_header(file)


def is_transparent(file: pathlib.Path) -> bool:
    """Whether a picture is transparent anywhere."""
    with _naming(file):
        return pictures.is_transparent(file)


def read_picture(file: pathlib.Path) -> np.ndarray:
    """Returns uint8 or uint16 [H, W, 3], see `data.pictures`.

    Raises:
      ValueError: the picture is damaged.
    """
    with _naming(file):
        return pictures.read_picture(file)


@contextlib.contextmanager
def _naming(file: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        SyntaxError,
        ValueError,
        av.FFmpegError,
    ) as error:  # damaged PNGs are the second to Pillow
        raise ValueError(f"input picture {file} cannot be read: {error}") from error
