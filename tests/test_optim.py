"""The schedule and Adam against literals and numpy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stvsr_jax import optim

RECIPE = optim.OptimizerConfig(
    learning_rate=4e-4, final_learning_rate=1e-7, cycle_steps=150_000, b1=0.9, b2=0.99
)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 4e-4),
        (37_500, 3.414359e-4),  # 1e-7 + (4e-4 - 1e-7) (1 + cos(pi / 4)) / 2
        (75_000, 2.0005e-4),
        (112_500, 5.866411e-5),
        (150_000, 4e-4),
        (225_000, 2.0005e-4),
        (450_000, 4e-4),
    ],
)
def test_schedule_of_the_published_recipe(step, rate):
    np.testing.assert_allclose(optim.make_schedule(RECIPE)(step), rate, rtol=1e-5)


def test_last_step_of_a_cycle_is_near_the_final_rate():
    last = float(optim.make_schedule(RECIPE)(149_999))
    assert 1e-7 * (1 - 1e-4) <= last < 1.01e-7


def test_cycles_repeat():
    schedule = optim.make_schedule(dataclasses.replace(RECIPE, cycle_steps=10))
    first = [float(schedule(step)) for step in range(10)]
    assert [float(schedule(jnp.int32(step))) for step in range(10, 20)] == first
    assert first == sorted(first, reverse=True)


def test_first_update_of_adam_is_the_rate_times_the_sign():
    optimizer = optim.make_optimizer(RECIPE)
    params = {"w": jnp.array([1.0, -2.0, 3.0])}
    grads = {"w": jnp.array([0.5, -1e-3, 100.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # m / (sqrt(v) + 1e-8) with both bias-corrected is g / (|g| + 1e-8)
    np.testing.assert_allclose(updates["w"], [-4e-4, 4e-4 / (1 + 1e-5), -4e-4], rtol=2e-6)


def test_adam_equals_numpy_over_a_restart():
    optimizer = optim.make_optimizer(dataclasses.replace(RECIPE, cycle_steps=3))
    w = np.array([1.0, -2.0])
    params, m, v = jnp.array(w, jnp.float32), np.zeros(2), np.zeros(2)
    state = optimizer.init(params)
    for step in range(5):
        grad = np.array([0.3, -0.7]) * (step + 1)
        updates, state = optimizer.update(jnp.array(grad, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad**2
        rate = 1e-7 + (4e-4 - 1e-7) * (1 + np.cos(np.pi * (step % 3) / 3)) / 2
        w -= rate * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-8)
    np.testing.assert_allclose(params, w, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1e-8}, "final_learning_rate=1e-07 .* learning_rate=1e-08"),
        ({"final_learning_rate": -1.0}, "final_learning_rate=-1.0 must lie between 0"),
        ({"cycle_steps": 0}, "cycle_steps=0 must be at least 1"),
    ],
)
def test_impossible_numbers_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPE, **change)


def test_a_rate_of_zero_is_zero_throughout():
    schedule = optim.make_schedule(dataclasses.replace(RECIPE, learning_rate=0.0, final_learning_rate=0.0))
    assert [float(schedule(step)) for step in (0, 75_000, 150_000)] == [0.0, 0.0, 0.0]
