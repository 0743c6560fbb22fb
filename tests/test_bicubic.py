"""Bicubic resizing against its definition, known values, and Pillow."""

import math

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.bicubic import imresize, output_size, resize_taps, resize_weights, to_uint8


def _keys(x):
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    if x <= 2:
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return 0.0


def _resize_line(line, scale, out_size):
    """The definition, pixel by pixel: sum every pixel of the mirrored line, however far away."""
    n, result = len(line), []
    shrink = min(scale, 1.0)
    for i in range(out_size):
        centre = (i + 0.5) / scale - 0.5
        total = norm = 0.0
        for j in range(math.floor(centre - 2 / shrink) - 1, math.ceil(centre + 2 / shrink) + 2):
            weight = _keys(shrink * (centre - j))
            k = j % (2 * n)
            total += weight * line[k if k < n else 2 * n - 1 - k]
            norm += weight
        result.append(total / norm)
    return result


@pytest.mark.parametrize(
    "size, scale",
    [
        ((24, 16), 0.25),
        ((13, 9), 0.5),
        ((17, 31), 1 / 8),
        ((11, 7), 0.37),
        ((7, 5), 4.0),
        ((6, 9), 1.7),
        ((3, 2), 0.25),
    ],
)
def test_matches_the_definition_pixel_by_pixel(size, scale):
    image = np.random.default_rng(0).uniform(0, 255, (*size, 3))
    height, width = math.ceil(size[0] * scale), math.ceil(size[1] * scale)
    expected = np.empty((height, size[1], 3))
    for x, c in np.ndindex(size[1], 3):
        expected[:, x, c] = _resize_line(image[:, x, c], scale, height)
    expected = np.stack([[_resize_line(row[:, c], scale, width) for c in range(3)] for row in expected])
    np.testing.assert_allclose(imresize(image, scale=scale), expected.transpose(0, 2, 1), atol=1e-10)


def test_half_size_weights_are_the_known_ones():
    # Keys' cubic at 0.25, 0.75, 1.25, 1.75, halved: the eight taps of a reduction by 2.
    taps = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    indices, weights = resize_taps(32, 16, 0.5)
    np.testing.assert_array_equal(indices[8], np.arange(13, 21))
    np.testing.assert_allclose(weights[8], taps, rtol=0, atol=1e-15)


def test_quarter_size_weights_are_the_known_ones():
    # Keys' cubic at 1/8, 3/8, ..., 15/8, divided by 4.
    half = np.array([987, 745, 399, 93, -49, -75, -45, -7]) / 4096
    indices, weights = resize_taps(64, 16, 0.25)
    used = weights[8] != 0
    np.testing.assert_array_equal(indices[8, used], np.arange(26, 42))
    np.testing.assert_allclose(weights[8, used], np.concatenate([half[::-1], half]), rtol=0, atol=1e-15)


def test_a_ramp_is_sampled_at_half_pixel_centres():
    ramp = np.arange(32.0)[None, :, None].repeat(4, 0)
    found = imresize(ramp, scale=0.5)[0, :, 0]
    # Away from the border a linear function is reproduced: 0.5, 2.5, 4.5, ...
    np.testing.assert_allclose(found[2:-2], np.arange(16)[2:-2] * 2 + 0.5, atol=1e-12)
    # Output 0 looks at pixels -3..4, which mirror to 2 1 0 0 1 2 3 4.
    taps = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    np.testing.assert_allclose(found[0], taps @ [2, 1, 0, 0, 1, 2, 3, 4], atol=1e-12)


def test_constant_image_stays_constant_with_borders():
    image = np.full((2, 13, 11, 3), 7, np.uint8)
    for scale in (0.25, 0.43, 1.0, 3.0):
        np.testing.assert_allclose(imresize(image, scale=scale), 7.0, atol=1e-5)


def test_scale_one_is_the_identity():
    image = np.random.default_rng(1).integers(0, 256, (5, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(imresize(image, scale=1.0), image)


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_equals_pillow_away_from_the_border(reduce):
    # Pillow cuts the kernel off at the border and divides by what is left, MATLAB mirrors the image.
    image = np.random.default_rng(2).uniform(0, 255, (96, 128)).astype(np.float32)
    size = (128 // reduce, 96 // reduce)
    pillow = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    ours = imresize(image[..., None], scale=1 / reduce)[..., 0]
    np.testing.assert_allclose(ours[2:-2, 2:-2], pillow[2:-2, 2:-2], atol=1e-2)
    assert np.abs(ours - pillow).max() > 0.1


def test_upscaling_by_four_equals_pillow_away_from_the_border():
    image = np.random.default_rng(3).uniform(0, 255, (20, 24)).astype(np.float32)
    pillow = np.asarray(Image.fromarray(image).resize((96, 80), Image.Resampling.BICUBIC))
    ours = imresize(image[..., None], scale=4)[..., 0]
    np.testing.assert_allclose(ours[8:-8, 8:-8], pillow[8:-8, 8:-8], atol=1e-2)


def test_out_size_is_ceil_and_not_pushed_up_by_rounding():
    assert output_size(10, 1.1) == 11
    assert output_size(135, 0.25) == 34
    assert output_size(99, 1 / 3) == 33
    assert output_size(1, 0.01) == 1
    assert imresize(np.zeros((135, 241, 3)), scale=0.25).shape == (34, 61, 3)


def test_out_size_alone_sets_the_scale_of_each_axis():
    image = np.random.default_rng(4).uniform(size=(12, 20, 3))
    found = imresize(image, out_size=(6, 30))
    np.testing.assert_array_equal(found, imresize(image, scale=(0.5, 1.5)))


def test_out_size_with_scale_takes_that_many_pixels_of_the_grid():
    image = np.random.default_rng(5).uniform(size=(20, 20, 3))
    np.testing.assert_array_equal(
        imresize(image, scale=0.25, out_size=(3, 4)), imresize(image, scale=0.25)[:3, :4]
    )


def test_matrix_equals_taps():
    image = np.random.default_rng(6).uniform(size=(19, 23, 3))
    rows, columns = resize_weights(19, 7, 0.35), resize_weights(23, 9, 0.35)
    expected = np.einsum("ih,jw,hwc->ijc", rows, columns, image)
    np.testing.assert_allclose(imresize(image, scale=0.35), expected, atol=1e-12)


@pytest.mark.parametrize(
    "dtype, result", [(np.uint8, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_result_types(dtype, result):
    assert imresize(np.zeros((8, 8, 3), dtype), scale=0.5).dtype == result


def test_to_uint8_clamps_and_rounds_halves_up():
    found = to_uint8(np.array([-3.0, 0.49, 0.5, 1.5, 2.5, 254.5, 255.0, 300.0], np.float32))
    np.testing.assert_array_equal(found, [0, 0, 1, 2, 3, 255, 255, 255])


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        imresize(np.zeros((4, 4)), scale=0.5)
    with pytest.raises(ValueError, match="scale, out_size or both"):
        imresize(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="scale=-1.0"):
        imresize(np.zeros((4, 4, 3)), scale=-1.0, out_size=(2, 2))
    with pytest.raises(ValueError, match="out_size=0"):
        imresize(np.zeros((4, 4, 3)), scale=1.0, out_size=(0, 2))
