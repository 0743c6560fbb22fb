"""The fast sine against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops import sine


@pytest.mark.parametrize("limit", [1.0, 30.0, 1000.0, 10000.0])
def test_sine_and_its_slope_are_right_to_float32(limit):
    x = np.random.default_rng(0).uniform(-limit, limit, 200_001).astype(np.float32)
    exact = x.astype(np.float64)
    assert np.abs(np.asarray(jax.jit(sine)(x)) - np.sin(exact)).max() < 3e-7
    slope = jax.jit(jax.grad(lambda x: sine(x).sum()))(x)
    assert np.abs(np.asarray(slope) - np.cos(exact)).max() < 3e-7


def test_signs_and_zeros_are_exact():
    x = np.float32([0.0, np.pi / 2, -np.pi / 2, np.pi, 3 * np.pi / 2, 5 * np.pi / 2])
    np.testing.assert_allclose(sine(x), [0.0, 1.0, -1.0, 0.0, -1.0, 1.0], atol=3e-7)
    assert sine(jnp.float32(0.0)) == 0.0
    np.testing.assert_array_equal(sine(-x), -np.asarray(sine(x)))


def test_second_derivative_is_minus_sine():
    x = jnp.linspace(-5.0, 5.0, 101)
    second = jax.vmap(jax.grad(jax.grad(sine)))(x)
    np.testing.assert_allclose(second, -np.sin(np.asarray(x, np.float64)), atol=1e-6)


def test_not_finite_stays_not_finite():
    assert not np.isfinite(np.asarray(sine(jnp.float32([np.nan, np.inf, -np.inf])))).any()
