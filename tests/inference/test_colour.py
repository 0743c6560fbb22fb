"""Colours against the equations of BT.601, BT.709 and BT.2020 in numpy."""

import av
import numpy as np
import pytest

from stvsr_jax.inference import colour

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
    decoded = colour.frame_to_rgb(frame, tags, size=(64, 64))
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
        image = colour.frame_to_rgb(colour.rgb_to_frame(image, "yuv420p", tags), tags, size=(96, 96))
    shift = (image.astype(float) - rgb).mean((0, 1))
    assert np.abs(shift).max() < 0.15


@pytest.mark.parametrize(("height", "matrix"), [(480, 6), (576, 6), (720, 1)])
def test_unspecified_matrix_follows_the_picture_size(height, matrix):
    frame = av.VideoFrame(640, height, "yuv420p")
    assert int(frame.colorspace) == colour.UNSPECIFIED
    assert colour.read_tags(frame).matrix == matrix


def test_rgb_sources_are_written_as_bt709():
    tags = colour.read_tags(av.VideoFrame.from_ndarray(colour_patches(), format="rgb24"))
    assert tags.matrix == colour.RGB
    assert colour.output_tags(tags).matrix == colour.BT709


def test_unknown_matrix_is_refused():
    frame = av.VideoFrame(64, 64, "yuv420p")
    frame.colorspace = 8
    with pytest.raises(NotImplementedError, match="matrix 8"):
        colour.read_tags(frame)
