"""PSNR, SSIM and BT.601 luma against literals, numpy and scikit-image."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from stvsr_jax import metrics


@pytest.mark.parametrize(
    ("rgb", "luma"),
    [
        ((0, 0, 0), 16.0),
        ((1, 1, 1), 235.0),
        ((1, 0, 0), 81.481),
        ((0, 1, 0), 144.553),
        ((0, 0, 1), 40.966),
        ((0.5, 0.5, 0.5), 125.5),
    ],
)
def test_luma_is_bt601_limited_range(rgb, luma):
    np.testing.assert_allclose(metrics.luma(jnp.array(rgb, jnp.float32)), luma, rtol=1e-6)


@pytest.mark.parametrize(("peak", "difference", "expected"), [(1.0, 0.1, 20.0), (255.0, 16.0, 24.0485)])
def test_psnr_of_a_constant_difference(peak, difference, expected):
    target = np.random.default_rng(0).uniform(0, 1, (2, 5, 7)).astype(np.float32) * peak / 2
    psnr = metrics.psnr(jnp.array(target + np.float32(difference)), jnp.array(target), peak=peak)
    assert psnr.shape == (2,)
    np.testing.assert_allclose(psnr, expected, atol=1e-3)


def test_psnr_of_equal_images_is_infinite():
    image = jnp.full((4, 4), 0.3)
    assert metrics.psnr(image, image, peak=1.0) == np.inf


def test_psnr_y_of_grey_levels():
    # A grey step of 0.1 is 21.9 of 255 in Y: 20 log10(255 / 21.9) = 21.3219 dB.
    target = jnp.full((1, 2, 6, 8, 3), 0.4)
    psnr = metrics.psnr_y(target + 0.1, target)
    assert psnr.shape == (1, 2)
    np.testing.assert_allclose(psnr, 21.3219, atol=1e-3)


def test_psnr_y_equals_numpy_for_each_frame():
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-0.2, 1.2, (2, 2, 3, 8, 6, 3))
    weights = np.array([65.481, 128.553, 24.966])
    error = np.mean(((a - b) @ weights) ** 2, axis=(-2, -1))
    np.testing.assert_allclose(
        metrics.psnr_y(jnp.array(a, jnp.float32), jnp.array(b, jnp.float32)),
        10 * np.log10(255**2 / error),
        rtol=1e-5,
    )


def test_psnr_rgb_of_one_wrong_channel():
    target = jnp.full((2, 5, 6, 3), 0.5)
    # A third of all values is off by 0.1: 10 log10(1 / (0.01 / 3)).
    psnr = metrics.psnr_rgb(target.at[..., 1].add(0.1), target)
    assert psnr.shape == (2,)
    np.testing.assert_allclose(psnr, 24.7712, atol=1e-3)


def test_ssim_of_flat_images_is_the_luminance_term():
    # (2 * 100 * 110 + 6.5025) / (100^2 + 110^2 + 6.5025); without any variance the other factor is 1.
    a, b = jnp.full((12, 13), 100.0), jnp.full((12, 13), 110.0)
    np.testing.assert_allclose(metrics.ssim(a, b, peak=255.0), 0.9954764, atol=1e-6)


def test_ssim_of_a_negated_image():
    # One window, with weights w_i w_j: a pattern of means m and variance v against its negative about m has
    # covariance -v, so (C2 - 2v) / (C2 + 2v) where the means agree.
    offsets = np.arange(-5, 6)
    w = np.exp(-0.5 * (offsets / 1.5) ** 2)
    w /= w.sum()
    pattern = np.where(np.add.outer(offsets, offsets) % 2 == 0, 0.2, -0.2)
    mean = w @ pattern @ w
    variance = 0.04 - mean**2
    image, negative = 0.5 + pattern - mean, 0.5 - pattern + mean
    expected = (0.0009 - 2 * variance) / (0.0009 + 2 * variance)
    ssim = metrics.ssim(jnp.array(image, jnp.float32), jnp.array(negative, jnp.float32), peak=1.0)
    np.testing.assert_allclose(ssim, expected, atol=1e-5)


def test_ssim_of_equal_images_is_one():
    image = jnp.array(np.random.default_rng(0).uniform(size=(3, 16, 20)), jnp.float32)
    np.testing.assert_allclose(metrics.ssim(image, image, peak=1.0), 1.0, atol=1e-6)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="10x40 are smaller than SSIM's window of 11"):
        metrics.ssim(jnp.zeros((10, 40)), jnp.zeros((10, 40)), peak=1.0)


@pytest.fixture(params=["noise", "flat", "dark", "natural"])
def frames(request):
    """Return (prediction, target), uint8 [3, 37, 52, 3]: textures with different kinds of errors."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:37, :52]
    waves = np.stack([np.sin(x / (3 + c)) * np.cos(y / (5 + c)) for c in range(3)], axis=-1)
    target = {
        "noise": rng.uniform(0, 255, (3, 37, 52, 3)),
        "flat": np.full((3, 37, 52, 3), 200.0),
        "dark": 4 + 3 * waves + np.zeros((3, 1, 1, 1)),
        "natural": 128 + 90 * waves + rng.normal(0, 6, (3, 37, 52, 3)),
    }[request.param]
    prediction = target + rng.normal(0, 4, target.shape)
    return tuple(np.clip(np.round(image), 0, 255).astype(np.uint8) for image in (prediction, target))


def test_metrics_equal_scikit_image(frames):
    scores = metrics.score_frames(*map(jnp.array, frames))
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    for n, (prediction, target) in enumerate(zip(*frames, strict=True)):
        y, y_target = (
            16 + image.astype(np.float64) / 255 @ [65.481, 128.553, 24.966] for image in (prediction, target)
        )
        expected = {
            "psnr_y": peak_signal_noise_ratio(y_target, y, data_range=255),
            "ssim_y": structural_similarity(y_target, y, data_range=255, **options),
            "psnr_rgb": peak_signal_noise_ratio(target, prediction, data_range=255),
            "ssim_rgb": structural_similarity(
                target.astype(np.float64),
                prediction.astype(np.float64),
                data_range=255,
                channel_axis=-1,
                **options,
            ),
        }
        assert scores.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(scores[name][n], value, atol=1e-4, rtol=0, err_msg=name)


def test_8_bit_frames_score_as_the_same_numbers_in_float(frames):
    eight_bit = metrics.score_frames(*map(jnp.array, frames))
    unit = metrics.score_frames(*(jnp.array(image.astype(np.float32) / 255) for image in frames))
    for name in metrics.METRICS:
        # SSIM takes the small variance of a flat image from large squares: float32 leaves it four digits.
        np.testing.assert_allclose(eight_bit[name], unit[name], rtol=2e-5, atol=3e-5)
