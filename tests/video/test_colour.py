"""YUV becomes the RGB that the standards define, whole or in part."""

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from stvsr_jax.video import colour
from stvsr_jax.video.colour import ColourTags, RgbConverter, read_tags
from tests.lossless import through_h264


def _flat_frame(pixel_format, yuv, height=48, width=64):
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


@pytest.mark.parametrize("matrix, kr, kb", [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (9, 0.2627, 0.0593)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "yuv", [(16, 128, 128), (235, 128, 128), (81, 90, 200), (100, 110, 150), (180, 140, 90)]
)
def test_matches_the_standard(matrix, kr, kb, full, yuv):
    y, pb, pr = (
        (np.array(yuv) - [0, 128, 128]) / 255 if full else (np.array(yuv) - [16, 128, 128]) / [219, 224, 224]
    )
    red, blue = y + 2 * (1 - kr) * pr, y + 2 * (1 - kb) * pb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    expected = 255 * np.clip([red, green, blue], 0, 1)
    converter = RgbConverter(ColourTags(matrix, full, 2, 2))
    frame = _flat_frame("yuv420p", yuv)
    np.testing.assert_allclose(converter.to_rgb(frame)[20, 20], expected, atol=0.6)
    np.testing.assert_allclose(converter.shrink(frame, (18, 32))[9, 9], expected, atol=0.6)


def test_undeclared_colour_is_guessed_from_the_size():
    for pixel_format, size, expected in [
        ("yuv420p", (480, 720), (6, False)),
        ("yuv420p", (576, 720), (6, False)),
        ("yuv420p", (720, 1280), (1, False)),
        ("yuv420p", (1280, 720), (1, False)),
        ("yuvj420p", (480, 720), (6, True)),
    ]:
        tags = read_tags(_flat_frame(pixel_format, (0, 0, 0), *size))
        assert (tags.matrix, tags.is_full_range) == expected


def test_declared_colour_is_kept():
    frame = _flat_frame("yuv420p", (0, 0, 0), 480, 720)
    frame.colorspace, frame.color_range = 1, 2
    assert read_tags(frame) == ColourTags(1, True, 2, 2)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gbrp"])
@pytest.mark.parametrize("size", [(96, 160), (90, 122), (95, 121)])
def test_crop_equals_crop_of_the_whole(pixel_format, size, draw_frames):
    rgb = av.VideoFrame.from_ndarray(draw_frames(1, *size, speed=0)[0], format="rgb24")
    frame = rgb.reformat(format=pixel_format)
    converter = RgbConverter(read_tags(frame))
    whole = converter.to_rgb(frame)
    assert whole.shape == (*size, 3)
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, width = rng.integers(4, 60, 2)
        top, left = rng.integers(size[0] - height + 1), rng.integers(size[1] - width + 1)
        for y, x in ((top, left), (0, left), (size[0] - height, size[1] - width)):
            part = converter.to_rgb(frame, (int(y), int(x), int(height), int(width)))
            np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])


LUMA = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # red and blue weights


def colour_patches():
    """uint8 [64, 64, 3]: 16 colours in squares of 16 pixels."""
    patches = np.random.default_rng(0).integers(16, 240, (4, 4, 3)).astype(np.uint8)
    return patches.repeat(16, 0).repeat(16, 1)


def to_ycbcr(rgb, matrix, is_full_range):
    """float [3, H, W] in 8-bit units."""
    red, green, blue = (rgb[..., i] / 255 for i in range(3))
    kr, kb = LUMA[matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    if is_full_range:
        return np.stack([255 * y, 255 * cb + 128, 255 * cr + 128])
    return np.stack([16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr])


def centres(image):
    return image.astype(float)[4::16, 4::16]


@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize("is_full_range", [False, True])
def test_decoding_follows_the_tags(matrix, is_full_range):
    rgb = colour_patches()
    planes = np.round(to_ycbcr(rgb, matrix, is_full_range)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    frame.colorspace, frame.color_range = matrix, 2 if is_full_range else 1
    tags = colour.read_tags(frame)
    assert (tags.matrix, tags.is_full_range) == (matrix, is_full_range)
    decoded = RgbConverter(tags).to_rgb(frame)
    assert np.abs(decoded.astype(int) - rgb).max() <= 2


@pytest.mark.parametrize("matrix", LUMA)
def test_encoding_follows_the_tags(matrix):
    rgb = colour_patches()
    frame = colour.rgb_to_frame(rgb, "yuv444p", colour.ColourTags(matrix, False, 1, 1))
    assert (frame.colorspace, frame.color_range) == (matrix, 1)
    error = frame.to_ndarray() - to_ycbcr(rgb, matrix, False)
    assert np.abs(error).max() < 0.6


@pytest.mark.parametrize("matrix", LUMA)
def test_four_trips_through_420_do_not_shift_colours(matrix):
    rng = np.random.default_rng(1)
    rgb = np.clip(np.cumsum(np.cumsum(rng.normal(0, 1.0, (96, 96, 3)), 0), 1) + 128, 20, 235).astype(np.uint8)
    tags = colour.ColourTags(matrix, False, 1, 1)
    image = rgb
    for _ in range(4):
        image = RgbConverter(tags).to_rgb(through_h264(colour.rgb_to_frame(image, "yuv420p", tags)))
    shift = (image.astype(float) - rgb).mean((0, 1))
    assert np.abs(shift).max() < 0.15


def test_rgb_sources_are_written_as_bt709():
    tags = colour.read_tags(av.VideoFrame.from_ndarray(colour_patches(), format="rgb24"))
    assert tags.matrix == colour.RGB
    assert colour.output_tags(tags).matrix == colour.BT709


def test_unknown_matrix_is_refused():
    frame = av.VideoFrame(64, 64, "yuv420p")
    frame.colorspace = 8
    with pytest.raises(NotImplementedError, match="matrix 8"):
        colour.read_tags(frame)


@pytest.mark.parametrize(
    "pixel_format", ["rgba", "argb", "bgra", "yuva444p", "yuva444p10le", "gbrap16le", "ya8"]
)
@pytest.mark.parametrize("is_deep", [False, True])
def test_what_is_transparent_lies_on_black(pixel_format, is_deep):
    pixels = np.full((32, 48, 4), 200, np.uint8)
    pixels[..., 3] = np.repeat([0, 51, 255], 16)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pixel_format)
    assert colour.is_transparent(frame)
    rgb = RgbConverter(read_tags(frame)).to_rgb(frame, is_deep=is_deep)
    assert rgb.dtype == (np.uint16 if is_deep else np.uint8)
    expected = np.array([0, 40, 200]) * (257 if is_deep else 1)
    assert np.abs(rgb[8, 8::16, 1].astype(int) - expected).max() <= (2 * 257 if is_deep else 2)
    part = RgbConverter(read_tags(frame)).to_rgb(frame, (3, 10, 8, 30), is_deep=is_deep)
    np.testing.assert_array_equal(part, rgb[3:11, 10:40])
    opaque = av.VideoFrame.from_ndarray(pixels | 255, format="rgba").reformat(format=pixel_format)
    assert colour.has_alpha(opaque) and not colour.is_transparent(opaque)


def test_palettes_may_be_transparent():
    frame = av.VideoFrame(16, 16, "pal8")
    frame.planes[0].update(np.tile(np.arange(16, dtype=np.uint8) % 2, (16, frame.planes[0].line_size // 16)))
    palette = np.zeros((256, 4), np.uint8)
    palette[0], palette[1] = (255, 255, 255, 0), (10, 20, 30, 255)  # blue, green, red, alpha
    frame.planes[1].update(palette)
    assert colour.is_transparent(frame)
    rgb = RgbConverter(read_tags(frame)).to_rgb(frame)
    assert (rgb[:, ::2] == 0).all() and (rgb[:, 1::2] == (30, 20, 10)).all()


def test_on_black_rounds_at_every_depth():
    for kind in (np.uint8, np.uint16):
        most = np.iinfo(kind).max
        rgba = np.random.default_rng(0).integers(0, most + 1, (9, 9, 4)).astype(kind)
        rgba[0, 0] = most
        exact = rgba[..., :3].astype(float) * rgba[..., 3:] / most
        assert np.abs(colour.on_black(rgba) - exact).max() <= 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le", "gbrp16le", "bgr0"])
def test_a_kept_maker_makes_what_a_fresh_one_makes(pixel_format, dtype):
    rng = np.random.default_rng(0)
    maker = colour.FrameMaker(pixel_format, colour.PICTURES)
    for width in (54, 54, 96):  # lines of other lengths than in memory, and another size
        rgb = rng.integers(0, np.iinfo(dtype).max, (38, width, 3), dtype, endpoint=True)
        made, fresh = maker.make(rgb), colour.rgb_to_frame(rgb, pixel_format, colour.PICTURES)
        assert (made.format.name, made.color_range) == (fresh.format.name, fresh.color_range)
        for one, other in zip(made.planes, fresh.planes, strict=True):
            rows = (np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in (one, other))
            used = width * (4 if pixel_format == "bgr0" else 1)
            a, b = (row[:, : min(used, one.line_size)] for row in rows)
            np.testing.assert_array_equal(a[:, : one.width], b[:, : one.width])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le", "bgr0"])
def test_frames_ask_an_encoder_for_nothing(pixel_format):
    frame = colour.rgb_to_frame(colour_patches(), pixel_format, colour.PICTURES)
    assert (frame.pict_type, frame.pts, frame.interlaced_frame) == (PictureType.NONE, None, False)
    assert not list(frame.side_data)
