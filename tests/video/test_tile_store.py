"""Tiles keep every value of every plane, a part costs its own tiles only, and damage is named."""

import zlib

import numpy as np
import pytest

from stvsr_jax.video import tile_store


def draw_planes(pixel_format, size, seed=0):
    """Noise beside a ramp: differences of all sizes, and runs of equal ones."""
    rng = np.random.default_rng(seed)
    planes = []
    for step_y, step_x in ((1, 1), *2 * (tile_store.FORMATS[pixel_format],)):
        shape = size[0] // step_y, size[1] // step_x
        ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1]))
        noise = rng.integers(0, 256, shape)
        planes.append(np.where(np.arange(shape[1]) % 40 < 20, ramp, noise).astype(np.uint8))
    return planes


def write(path, frames, pixel_format, size):
    writer = tile_store.TileWriter(path, pixel_format, size)
    for planes in frames:
        writer.add(planes)
    writer.finish()
    writer.close()
    return path


@pytest.mark.parametrize(
    "pixel_format, size",
    [("yuv420p", (130, 200)), ("yuv422p", (63, 66)), ("yuv444p", (65, 64)), ("rgb", (1, 131))],
)
def test_values_come_back(tmp_path, pixel_format, size):
    frames = [draw_planes(pixel_format, size, seed) for seed in range(11)]
    file = tile_store.TileFile(write(tmp_path / "a.tiles", frames, pixel_format, size))
    assert (len(file), file.pixel_format, file.size) == (11, pixel_format, size)
    numbers = [10, 3, 3, 0, 1, 2, 4, 5, 6, 7, 8]  # more than are put together at a time
    found = list(file.read(numbers, (0, 0, *size)))
    for n, planes in zip(numbers, found, strict=True):
        for plane, expected in zip(planes, frames[n], strict=True):
            np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize(
    "part", [(0, 0, 2, 2), (62, 126, 4, 8), (64, 64, 64, 64), (30, 4, 100, 190), (128, 192, 2, 8)]
)
def test_parts_are_those_of_the_frame(tmp_path, part):
    frames = [draw_planes("yuv420p", (130, 200), seed) for seed in range(2)]
    file = tile_store.TileFile(write(tmp_path / "a.tiles", frames, "yuv420p", (130, 200)))
    top, left, height, width = part
    for planes, expected in zip(file.read([0, 1], part), frames, strict=True):
        np.testing.assert_array_equal(planes[0], expected[0][top : top + height, left : left + width])
        for plane, whole in zip(planes[1:], expected[1:], strict=True):
            half = whole[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2]
            np.testing.assert_array_equal(plane, half)


def test_only_tiles_under_the_part_are_decoded(tmp_path, monkeypatch):
    frames = [draw_planes("yuv420p", (256, 320))] * 3
    file = tile_store.TileFile(write(tmp_path / "a.tiles", frames, "yuv420p", (256, 320)))
    real, calls = zlib.decompress, []
    monkeypatch.setattr(zlib, "decompress", lambda *args: (calls.append(1), real(*args))[1])
    list(file.read([0, 2], (70, 130, 100, 60)))
    assert len(calls) == 2 * 2 * 1


def test_flat_frames_take_next_to_nothing(tmp_path):
    flat = [np.full((720 // step, 1280 // step), 100, np.uint8) for step in (1, 2, 2)]
    assert write(tmp_path / "a.tiles", [flat], "yuv420p", (720, 1280)).stat().st_size < 20_000


def test_damage_is_named(tmp_path):
    path = write(tmp_path / "a.tiles", [draw_planes("rgb", (64, 64))] * 2, "rgb", (64, 64))
    whole = path.read_bytes()
    file = tile_store.TileFile(path)
    path.write_bytes(whole[:8] + bytes(200) + whole[208:])  # the same file: its inode stays
    with pytest.raises(ValueError, match=r"a.tiles is damaged in one of the frames \[0\]"):
        list(file.read([0], (0, 0, 64, 64)))
    for data in (b"", b"no tiles at all", whole[:-20], whole.replace(b'"version": 1', b'"version": 9')):
        (tmp_path / "b.tiles").write_bytes(data)
        with pytest.raises(ValueError, match="b.tiles is no file of tiles"):
            tile_store.TileFile(tmp_path / "b.tiles")


def test_a_full_disk_names_the_file():
    writer = tile_store.TileWriter("/dev/full", "rgb", (64, 64))
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        writer.add(draw_planes("rgb", (64, 64)))
    writer.close()
