"""PSNR and BT.601 luma against literals and numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

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
