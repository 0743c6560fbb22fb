"""Photographs are decoded once, as they are to be looked at."""

import numpy as np
import pytest
from PIL import Image

from stvsr_jax import files
from stvsr_jax.data.photos import load_photos, open_photo


def test_pixels_are_those_of_the_files_in_natural_order(tmp_path, write_noise):
    frames = write_noise(tmp_path / "photos" / "inner", ["p2.png", "p10.png"], 20, 24)
    (tmp_path / "photos" / "notes.txt").write_text("no photograph")
    paths = load_photos(tmp_path / "photos", cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(np.stack([open_photo(path) for path in paths]), frames)


def test_turned_photographs_are_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    (tmp_path / "photos").mkdir()
    image.save(tmp_path / "photos" / "p.png", exif=exif)
    (path,) = load_photos(tmp_path / "photos", cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(open_photo(path), np.rot90(pixels, -1))


def test_small_photographs_are_left_out(tmp_path, write_noise):
    write_noise(tmp_path / "photos", ["large.png"], 20, 24)
    write_noise(tmp_path / "photos" / "small", ["small.png"], 19, 24)
    assert len(load_photos(tmp_path / "photos", cache_dir=tmp_path / "cache", min_side=20)) == 1


def test_damaged_photographs_are_named(tmp_path, write_noise):
    write_noise(tmp_path / "photos", ["a.png"], 20, 24)
    (tmp_path / "photos" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read as a photograph"):
        load_photos(tmp_path / "photos", cache_dir=tmp_path / "cache")


def test_damaged_photographs_are_left_out_each_with_its_reason(tmp_path, write_noise):
    frames = write_noise(tmp_path / "photos", ["a.png", "d.png"], 20, 24)
    (tmp_path / "photos" / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "photos" / "c.png").write_bytes((tmp_path / "photos" / "a.png").read_bytes()[:300])
    (tmp_path / "photos" / "e.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "photos" / "f.png").mkdir()
    faults = []
    paths = load_photos(tmp_path / "photos", cache_dir=tmp_path / "cache", faults=faults)
    np.testing.assert_array_equal(np.stack([open_photo(path) for path in paths]), frames)
    names = [fault.split(" cannot be read as a photograph: ")[0].rpartition("/")[2] for fault in faults]
    assert names == ["b.jpg", "c.png", "e.png"]


def test_a_full_disk_is_no_fault_of_the_photograph(tmp_path, write_noise, monkeypatch):
    write_noise(tmp_path / "photos", ["a.png"], 20, 24)

    def fail(path, value):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_array", fail)
    with pytest.raises(OSError, match="No space left"):
        load_photos(tmp_path / "photos", cache_dir=tmp_path / "cache", faults=[])
