"""Tiles keep every pixel, and a crop needs its own tiles only."""

import numpy as np
import pytest

from stvsr_jax.data import tiles


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (128, 128), (129, 300), (256, 127)])
def test_frames_come_back_bit_for_bit(size):
    frame = noise(*size)
    np.testing.assert_array_equal(tiles.decode(tiles.encode(frame), size), frame)


@pytest.mark.parametrize(
    "crop", [(0, 0, 1, 1), (127, 127, 2, 2), (128, 128, 128, 128), (30, 200, 250, 100), (0, 0, 300, 310)]
)
def test_crops_are_parts_of_the_frame(crop):
    frame = noise(300, 310)
    top, left, height, width = crop
    found = tiles.decode(tiles.encode(frame), (300, 310), crop)
    np.testing.assert_array_equal(found, frame[top : top + height, left : left + width])


def test_only_tiles_under_the_crop_are_decoded():
    frame = noise(300, 310)
    stored = tiles.encode(frame)
    assert len(stored) == 9
    stored = [tile if number in (4, 5) else b"not a picture" for number, tile in enumerate(stored)]
    np.testing.assert_array_equal(
        tiles.decode(stored, (300, 310), (130, 200, 60, 90)), frame[130:190, 200:290]
    )
    with pytest.raises(ValueError, match="a tile cannot be decoded"):
        tiles.decode(stored, (300, 310), (120, 200, 60, 90))


def test_wrong_tiles_and_frames_are_named():
    stored = tiles.encode(noise(300, 310))
    with pytest.raises(ValueError, match="9 tiles were stored for 310x400 pixels, not 12"):
        tiles.decode(stored, (400, 310))
    with pytest.raises(ValueError, match=r"a tile has shape \(44, 128, 3\), not \(50, 128, 3\)"):
        tiles.decode(stored, (306, 310))
    with pytest.raises(ValueError, match="float64"):
        tiles.encode(np.zeros((4, 4, 3)))
