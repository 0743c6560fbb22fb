"""Pictures of every usual kind."""

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.inference import pictures

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def test_grey_and_palettes_become_rgb(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(GREY).convert("P").save(tmp_path / "b.png")
    Image.fromarray(GREY > 100).save(tmp_path / "c.png")
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(pictures.read_picture(tmp_path / name), GREY[..., None].repeat(3, 2))
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / "c.png")[..., 1], (GREY > 100) * 255)


def test_sixteen_bit_grey_is_scaled_not_cut_off(tmp_path):
    deep = GREY.astype(np.uint16) * 257
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        np.testing.assert_array_equal(pictures.read_picture(tmp_path / name), GREY[..., None].repeat(3, 2))


def test_transparency_lies_on_black(tmp_path):
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[:2, :, 3], rgba[2:, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert pictures.has_alpha(tmp_path / "a.png")
    result = pictures.read_picture(tmp_path / "a.png")
    assert (result[:2] == 0).all() and (result[2:] == 200).all()
    Image.fromarray(GREY).save(tmp_path / "b.png")
    assert not pictures.has_alpha(tmp_path / "b.png")


def test_turned_photographs_come_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown turned clockwise
    photo = Image.fromarray(GREY.repeat(8, 0).repeat(8, 1))
    photo.save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert pictures.read_size(tmp_path / "a.jpg") == (64, 48)
    result = pictures.read_picture(tmp_path / "a.jpg")[4::8, 4::8, 0]
    assert np.abs(result.astype(int) - np.rot90(GREY, -1)).max() <= 2


def test_unusable_pictures_are_named(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "real.tif")
    with pytest.raises(ValueError, match="real.tif has real numbers"):
        pictures.read_size(tmp_path / "real.tif")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="text.png cannot be read"):
        pictures.read_size(tmp_path / "text.png")
    Image.fromarray(GREY.repeat(20, 0).repeat(20, 1)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:120])
    assert pictures.read_size(tmp_path / "cut.png") == (120, 160)
    with pytest.raises(ValueError, match="cut.png cannot be read"):
        pictures.read_picture(tmp_path / "cut.png")


def test_order_is_that_of_the_numbers_without_hidden_files(tmp_path):
    for name in ("f10.png", "f9.PNG", ".f1.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in pictures.list_pictures(tmp_path)] == ["f9.PNG", "f10.png"]
