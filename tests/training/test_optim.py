"""The schedule, Adam and what may be added to it, against literals and numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stvsr_jax import models
from stvsr_jax.training import optim

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


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 1e-4),
        (50_000, 7.5025e-5),  # 1e-7 + (1e-4 - 1e-7) (1 + cos(pi / 3)) / 2
        (100_000, 2.5075e-5),
        (150_000, 1e-4),
        (449_999, 1e-7),
        (450_000, 1e-4),  # the second stage begins with a cycle
        (525_000, 5.005e-5),
        (599_999, 1e-7),
    ],
)
def test_schedule_of_videoinr_over_both_stages(step, rate):
    schedule = optim.make_schedule(dataclasses.replace(RECIPE, learning_rate=1e-4))
    np.testing.assert_allclose(schedule(step), rate, rtol=1e-4)


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


def update_once(params, grads, **changes):
    optimizer = optim.make_optimizer(dataclasses.replace(RECIPE, **changes))
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    return updates, state


def test_clipping_scales_all_gradients_to_the_norm_together():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}  # norm 5
    for clip_norm, factor in ((0.0, 1.0), (10.0, 1.0), (1.0, 0.2)):
        _, state = update_once(params, grads, clip_norm=clip_norm)
        # Adam's average of the gradients is 0.1 times the first.
        np.testing.assert_allclose(state[1].mu["a"], [0.3 * factor, 0.0], rtol=1e-6)
        np.testing.assert_allclose(state[1].mu["b"], [0.4 * factor], rtol=1e-6)


def test_only_offset_heads_take_the_factor():
    params = {
        "level1_deform": {"head": {"kernel": jnp.zeros(1)}, "kernel": jnp.zeros(1)},
        "headless": jnp.zeros(1),
    }
    grads = {
        "level1_deform": {"head": {"kernel": jnp.ones(1)}, "kernel": jnp.ones(1)},
        "headless": jnp.ones(1),
    }
    updates, _ = update_once(params, grads, offset_rate=0.1)
    np.testing.assert_allclose(updates["level1_deform"]["head"]["kernel"], [-4e-5], rtol=1e-5)
    np.testing.assert_allclose(updates["level1_deform"]["kernel"], [-4e-4], rtol=1e-5)
    np.testing.assert_allclose(updates["headless"], [-4e-4], rtol=1e-5)


@pytest.mark.parametrize("name", ["zooming_slowmo", "videoinr"])
def test_offset_heads_of_the_networks_are_those_of_the_deformable_convolutions(name):
    model = models.build(name)
    shapes = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    ones = jax.tree.map(lambda x: np.ones(()), shapes)
    scaled = optim.scale_offset_heads(ones, 0.5)
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(scaled), strict=True)
    heads = [x.shape[-1] for x, factor in leaves if factor == 0.5]
    # 3 pairs (between frames, and each state of the cell) of 2 alignments of 3 levels; kernel and bias.
    assert heads == [216] * (3 * 2 * 3 * 2)


def test_state_has_one_structure_for_all_options():
    """So that options can be changed when a run is resumed."""
    params = {"head": {"kernel": jnp.zeros((2, 3))}}
    configs = ({}, {"clip_norm": 1.0}, {"offset_rate": 0.1}, {"ema_decay": 0.9, "learning_rate": 1e-3})
    states = [optim.make_optimizer(dataclasses.replace(RECIPE, **c)).init(params) for c in configs]
    assert len({str(jax.tree.structure(state)) for state in states}) == 1


def test_average_of_parameters():
    average = {"w": jnp.array([1.0])}
    early = optim.average_params(average, {"w": jnp.array([2.0])}, jnp.int32(0), decay=0.999)
    np.testing.assert_allclose(early["w"], [0.1 * 1 + 0.9 * 2], rtol=1e-6)
    late = optim.average_params(average, {"w": jnp.array([2.0])}, jnp.int32(1_000_000), decay=0.999)
    np.testing.assert_allclose(late["w"], [0.999 + 0.002], rtol=1e-6)
