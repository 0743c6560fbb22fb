"""A file of tiles gives any frames back, in any order, and names itself where it is damaged or cannot be written."""

import numpy as np
import pytest

from stvsr_jax.video import tile_store
from tests.video.test_tile_codec import draw_planes


def write(path, frames, pixel_format, size):
    with tile_store.TileWriter(path, pixel_format, size) as writer:
        for planes in frames:
            writer.add(planes)
    return path


def test_frames_come_back_in_any_order(tmp_path):
    frames = [draw_planes("yuv420p", (130, 200), seed) for seed in range(11)]
    file = tile_store.TileFile(write(tmp_path / "a.tiles", frames, "yuv420p", (130, 200)))
    assert (len(file), file.pixel_format, file.size) == (11, "yuv420p", (130, 200))
    numbers = [10, 3, 3, 0, 1, 2, 4, 5, 6, 7, 8]
    for n, planes in zip(numbers, file.read(numbers, (64, 30, 20, 60)), strict=True):
        np.testing.assert_array_equal(planes[0], frames[n][0][64:84, 30:90])
        np.testing.assert_array_equal(planes[1], frames[n][1][32:42, 15:45])
        np.testing.assert_array_equal(planes[2], frames[n][2][32:42, 15:45])


def test_damage_is_named(tmp_path):
    path = write(tmp_path / "a.tiles", [draw_planes("rgb", (64, 64))] * 2, "rgb", (64, 64))
    whole = path.read_bytes()
    file = tile_store.TileFile(path)
    path.write_bytes(whole[:8] + bytes(200) + whole[208:])  # the same file: its inode stays
    with pytest.raises(ValueError, match=r"a.tiles is damaged in one of the frames \[0\]"):
        list(file.read([0], (0, 0, 64, 64)))
    for data in (b"", b"no tiles at all", whole[:-20], whole.replace(b'"version": 2', b'"version": 9')):
        (tmp_path / "b.tiles").write_bytes(data)
        with pytest.raises(ValueError, match="b.tiles is no file of tiles"):
            tile_store.TileFile(tmp_path / "b.tiles")


def test_a_full_disk_names_the_file():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        with tile_store.TileWriter("/dev/full", "rgb", (64, 64)) as writer:
            writer.add(draw_planes("rgb", (64, 64)))
