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


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_losses_are_float32_and_keep_the_shape(name):
    half = jnp.zeros((2, 3, 4, 5, 3), jnp.bfloat16)
    loss = losses.LOSSES[name](half, half)
    assert loss.shape == half.shape and loss.dtype == jnp.float32


def test_bfloat16_inputs_are_subtracted_in_float32():
    prediction, target = jnp.bfloat16(1.0), jnp.bfloat16(0.00390625)
    np.testing.assert_allclose(losses.l1(prediction, target), 0.99609375, rtol=0)


def test_reductions():
    values = jnp.array([[1.0, 2.0], [3.0, 6.0]])
    assert losses.REDUCTIONS["mean"](values) == 3.0
    assert losses.REDUCTIONS["sum"](values) == 12.0
