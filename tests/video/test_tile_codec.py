"""Tiles keep every value of every plane, a part costs its own tiles only, and wrong data is refused."""

import itertools
import zlib

import numpy as np
import pytest

from stvsr_jax.video import tile_codec


def draw_planes(pixel_format, size, seed=0):
    """Noise beside a ramp: differences of all sizes, and runs of equal ones."""
    rng = np.random.default_rng(seed)
    planes = []
    for step_y, step_x in ((1, 1), *2 * (tile_codec.FORMATS[pixel_format],)):
        shape = size[0] // step_y, size[1] // step_x
        ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))
        noise = rng.integers(0, 256, shape)
        planes.append(np.where(np.arange(shape[1]) % 40 < 20, ramp, noise).astype(np.uint8))
    return planes


def decode(frames, pixel_format, size, part=None):
    return list(tile_codec.decode(frames, pixel_format, size, part or (0, 0, *size)))


@pytest.mark.parametrize(
    "pixel_format, size",
    [
        ("yuv420p", (130, 200)),
        ("yuv422p", (63, 66)),
        ("yuv444p", (65, 64)),
        *[("rgb", size) for size in ((1, 1), (1, 131), (64, 64), (65, 150))],
    ],
)
def test_values_come_back(pixel_format, size):
    frames = [
        draw_planes(pixel_format, size, seed) for seed in range(11)
    ]  # more than are put together at a time
    found = decode([tile_codec.encode(planes, pixel_format) for planes in frames], pixel_format, size)
    assert len(found) == 11
    for plane, expected in zip(itertools.chain(*found), itertools.chain(*frames), strict=True):
        np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "rgb"])
@pytest.mark.parametrize(
    "part", [(0, 0, 2, 2), (62, 126, 4, 8), (64, 64, 64, 64), (30, 4, 100, 190), (128, 192, 2, 8)]
)
def test_parts_are_those_of_the_frame(pixel_format, part):
    frames = [draw_planes(pixel_format, (130, 200), seed) for seed in range(2)]
    coded = [tile_codec.encode(planes, pixel_format) for planes in frames]
    for planes, expected in zip(decode(coded, pixel_format, (130, 200), part), frames, strict=True):
        for i, (plane, whole) in enumerate(zip(planes, expected, strict=True)):
            step = tile_codec.FORMATS[pixel_format][0] if i else 1
            top, left, height, width = (side // step for side in part)
            np.testing.assert_array_equal(plane, whole[top : top + height, left : left + width])


def test_only_tiles_under_the_part_are_decoded(monkeypatch):
    coded = tile_codec.encode(draw_planes("yuv420p", (256, 320)), "yuv420p")
    real, calls = zlib.decompress, []
    monkeypatch.setattr(zlib, "decompress", lambda *args: (calls.append(1), real(*args))[1])
    decode([coded, coded], "yuv420p", (256, 320), (70, 130, 100, 60))
    assert len(calls) == 2 * 2 * 1


def test_flat_frames_take_next_to_nothing():
    flat = [np.full((720 // step, 1280 // step), 100, np.uint8) for step in (1, 2, 2)]
    assert len(tile_codec.encode(flat, "yuv420p")) < 20_000


def test_grey_in_rgb_takes_one_plane():
    grey = draw_planes("rgb", (256, 256))[0]
    without_chroma = tile_codec.encode([grey, 0 * grey, 0 * grey], "yuv444p")
    assert tile_codec.encode([grey] * 3, "rgb") == without_chroma


def test_wrong_frames_are_refused():
    coded = tile_codec.encode(draw_planes("rgb", (100, 150)), "rgb")
    for data in (b"", coded[:7], coded[:-1], coded + b"0", coded[:40] + bytes(200) + coded[240:]):
        with pytest.raises(ValueError, match="a tile cannot be decoded"):
            decode([data], "rgb", (100, 150))
    with pytest.raises(ValueError, match="they are no 9 tiles of a frame of 150x130 pixels"):
        decode([coded], "rgb", (130, 150))
    with pytest.raises(ValueError, match="a tile cannot be decoded: cannot reshape"):
        decode([coded], "yuv420p", (100, 150))
