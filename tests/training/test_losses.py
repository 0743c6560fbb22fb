"""Losses against literals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.training import losses


def test_charbonnier_values():
    prediction = jnp.array([0.5, 0.5, 0.5, 0.0])
    target = jnp.array([0.5, 0.2, 0.501, 1.0])
    expected = [1e-3, 0.30000166666, 0.00141421356, 1.0000005]
    np.testing.assert_allclose(losses.charbonnier(prediction, target), expected, rtol=2e-5)


def test_l1_values():
    values = losses.l1(jnp.array([0.5, 0.25]), jnp.array([0.25, 1.0]))
    np.testing.assert_array_equal(values, [0.25, 0.75])


def test_charbonnier_gradient_is_zero_and_finite_at_zero_difference():
    gradient = jax.grad(lambda x: losses.charbonnier(x, jnp.float32(0.5)))
    assert gradient(jnp.float32(0.5)) == 0.0
    # d / sqrt(d^2 + 1e-6) at d = 1e-3
    np.testing.assert_allclose(gradient(jnp.float32(0.501)), np.sqrt(0.5), rtol=1e-3)


def test_psnr_values():
    # Mean squared errors of 0.01 (20 dB) and 1e-4 (40 dB), the first of them in a quarter of the values only.
    target = np.zeros((2, 4, 4, 3), np.float32)
    prediction = np.full((2, 4, 4, 3), 0.01, np.float32)
    prediction[0] = 0
    prediction[0, :2, :2] = 0.2
    values = losses.psnr(jnp.array(prediction), jnp.array(target))
    np.testing.assert_allclose(values, np.log([101, 2]), rtol=1e-5)


def test_psnr_gradient_is_zero_and_finite_where_images_are_equal():
    image = jnp.full((2, 4, 4, 3), 0.5)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(losses.psnr(x, image)))(image), 0.0)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_losses_are_float32_of_each_value_or_image(name):
    half = jnp.zeros((2, 3, 4, 5, 3), jnp.bfloat16)
    loss = losses.LOSSES[name](half, half)
    assert loss.shape == (half.shape[:2] if name == "psnr" else half.shape) and loss.dtype == jnp.float32


def test_bfloat16_inputs_are_subtracted_in_float32():
    prediction, target = jnp.bfloat16(1.0), jnp.bfloat16(0.00390625)
    np.testing.assert_allclose(losses.l1(prediction, target), 0.99609375, rtol=0)


def test_reductions():
    values = jnp.array([[1.0, 2.0], [3.0, 6.0]])
    assert losses.REDUCTIONS["mean"](values) == 3.0
    assert losses.REDUCTIONS["sum"](values) == 12.0
