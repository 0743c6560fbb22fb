"""Pictures of every usual kind."""

import av
import numpy as np
import pytest
from PIL import Image

from stvsr_jax.video import pictures

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def test_grey_and_palettes_become_rgb(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    Image.fromarray(GREY).convert("P").save(tmp_path / "b.png")
    Image.fromarray(GREY > 100).save(tmp_path / "c.png")
    for name in ("a.png", "b.png"):
        np.testing.assert_array_equal(pictures.read_picture(tmp_path / name), GREY[..., None].repeat(3, 2))
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / "c.png")[..., 1], (GREY > 100) * 255)


def test_sixteen_bit_grey_stays_so(tmp_path):
    deep = GREY.astype(np.uint16) * 257 + 3
    for name in ("a.png", "a.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        assert pictures.read_header(tmp_path / name) == pictures.Header(6, 8, 16)
        np.testing.assert_array_equal(pictures.read_picture(tmp_path / name), deep[..., None].repeat(3, 2))


def write_deep(path, pixels, pixel_format):
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream(path.suffix[1:].replace("tif", "tiff"), rate=1)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pixel_format
        given = "rgba64le" if pixels.shape[-1] == 4 else "rgb48le"
        frame = av.VideoFrame.from_ndarray(pixels, format=given).reformat(format=pixel_format)
        container.mux(stream.encode(frame) + stream.encode(None))


@pytest.mark.parametrize(("name", "pixel_format"), [("a.png", "rgb48be"), ("a.tif", "rgb48le")])
def test_sixteen_bit_colours_stay_so(tmp_path, name, pixel_format):
    deep = np.random.default_rng(0).integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    write_deep(tmp_path / name, deep, pixel_format)
    assert pictures.read_header(tmp_path / name) == pictures.Header(6, 8, 16)
    np.testing.assert_array_equal(pictures.read_picture(tmp_path / name), deep)


def test_sixteen_bit_transparency_lies_on_black(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (6, 8, 4)).astype(np.uint16)
    write_deep(tmp_path / "a.png", deep, "rgba64be")
    exact = deep[..., :3].astype(float) * deep[..., 3:] / 65535
    assert np.abs(pictures.read_picture(tmp_path / "a.png") - exact).max() <= 0.5
    assert pictures.is_transparent(tmp_path / "a.png")


def test_transparency_lies_on_black(tmp_path):
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[:2, :, 3], rgba[2:, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert pictures.is_transparent(tmp_path / "a.png")
    result = pictures.read_picture(tmp_path / "a.png")
    assert (result[:2] == 0).all() and (result[2:] == 200).all()
    Image.fromarray(GREY).save(tmp_path / "b.png")
    Image.fromarray(rgba[2:]).save(tmp_path / "c.png")  # room for transparency that is not used
    assert not pictures.is_transparent(tmp_path / "b.png") and not pictures.is_transparent(tmp_path / "c.png")


def test_turned_photographs_come_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown turned clockwise
    photo = Image.fromarray(GREY.repeat(8, 0).repeat(8, 1))
    photo.save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert pictures.read_header(tmp_path / "a.jpg") == pictures.Header(64, 48, 8)
    result = pictures.read_picture(tmp_path / "a.jpg")[4::8, 4::8, 0]
    assert np.abs(result.astype(int) - np.rot90(GREY, -1)).max() <= 2
