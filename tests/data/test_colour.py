"""YUV becomes the RGB that the standards define, whole or in part."""

import av
import numpy as np
import pytest

from stvsr_jax.data.colour import RgbConverter, colour_of


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
    converter = RgbConverter(matrix, 2 if full else 1)
    frame = _flat_frame("yuv420p", yuv)
    np.testing.assert_allclose(converter.to_rgb(frame)[20, 20], expected, atol=0.6)
    np.testing.assert_allclose(converter.shrink(frame, (18, 32))[9, 9], expected, atol=0.6)


def test_undeclared_colour_is_guessed_from_the_size():
    assert colour_of(_flat_frame("yuv420p", (0, 0, 0), 480, 720)) == (5, 1)
    assert colour_of(_flat_frame("yuv420p", (0, 0, 0), 720, 1280)) == (1, 1)
    assert colour_of(_flat_frame("yuvj420p", (0, 0, 0), 480, 720)) == (5, 2)


def test_declared_colour_is_kept():
    frame = _flat_frame("yuv420p", (0, 0, 0), 480, 720)
    frame.colorspace, frame.color_range = 1, 2
    assert colour_of(frame) == (1, 2)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gbrp"])
@pytest.mark.parametrize("size", [(96, 160), (90, 122)])
def test_crop_equals_crop_of_the_whole(pixel_format, size, draw_frames):
    rgb = av.VideoFrame.from_ndarray(draw_frames(1, *size, speed=0)[0], format="rgb24")
    frame = rgb.reformat(format=pixel_format)
    converter = RgbConverter(*colour_of(frame))
    whole = converter.to_rgb(frame)
    assert whole.shape == (*size, 3)
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, width = rng.integers(4, 60, 2)
        top, left = rng.integers(size[0] - height + 1), rng.integers(size[1] - width + 1)
        for y, x in ((top, left), (0, left), (size[0] - height, size[1] - width)):
            part = converter.to_rgb(frame, (int(y), int(x), int(height), int(width)))
            np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])
