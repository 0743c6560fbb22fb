"""Stacks as one tree of arrays and as a list: the same results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops import ConvWeights, stacks


@pytest.fixture(params=[False, True], ids=["list", "arrays"])
def is_array(request, monkeypatch):
    """Chooses what a stack is."""
    monkeypatch.setattr(stacks, "prefers_stacks", lambda dtype: request.param)
    return request.param


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(seed):
    return ConvWeights(draw(seed, 3, 3, 2, 4), draw(seed + 50, 4))


def convolve(weights, x, *, addend=None, slope=None):
    return weights.convolve((x,), stride=1, padding=1, addend=addend, slope=slope)


def assert_equal(stack, arrays):
    assert len(stack) == len(arrays)
    for got, want in zip(stack, arrays, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_stack_is_what_the_device_prefers(is_array):
    weights = stacks.stack([layer(0), layer(1)], jnp.float32)
    assert isinstance(weights, ConvWeights if is_array else list)
    images = stacks.like(weights, [draw(2, 5), draw(3, 5)])
    assert isinstance(images, jax.Array if is_array else list) and len(images) == 2


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_layer_reads_its_own_image(is_array, count):
    layers, images = [layer(s) for s in range(4)], [draw(10 + g, 1, 5, 6, 2) for g in range(count)]
    weights = stacks.stack(layers, jnp.float32)
    addends = [draw(20 + s, 1, 5, 6, 4) for s in range(4)]
    got = stacks.run(
        convolve, weights, stacks.like(weights, images), addend=stacks.like(weights, addends), slope=0.1
    )
    want = [convolve(layers[s], images[s % count], addend=addends[s], slope=0.1) for s in range(4)]
    assert_equal(got, want)


def test_layers_that_read_the_same_inputs_come_out_part_by_part(is_array):
    parts = [[layer(0), layer(1)], [layer(2), layer(3)]]
    images = [draw(10, 1, 5, 6, 2), draw(11, 1, 5, 6, 2)]
    weights = stacks.stack_outputs(parts, jnp.float32)
    got = stacks.unfold(stacks.run(convolve, weights, stacks.like(weights, images)), 2)
    assert_equal(got, [convolve(part[p], images[p]) for part in parts for p in range(2)])


def test_images_are_appended_to_repeated_ones_and_halved(is_array):
    weights = stacks.stack([layer(0)], jnp.float32)
    one, others = draw(0, 2, 3, 4, 1), [draw(1, 2, 3, 4, 1), draw(2, 2, 3, 4, 1)]
    got = stacks.append(stacks.like(weights, [one]), others)
    assert_equal(got, [one, one, *others])
    first, second = stacks.halves(got)
    assert_equal(first, [one, one])
    assert_equal(second, others)


def test_a_function_is_applied_to_each(is_array):
    weights = stacks.stack([layer(0)], jnp.float32)
    images = [draw(0, 3), draw(1, 3)]
    assert_equal(stacks.apply(lambda x: 2 * x, stacks.like(weights, images)), [2 * x for x in images])
