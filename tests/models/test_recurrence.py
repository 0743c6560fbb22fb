"""The loop with late weight gradients against `jax.lax.scan` of the same step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.models import recurrence
from stvsr_jax.models.layers import Weights, convolve


@jax.custom_vjp
def with_gradient_for_tap(y, tap):
    """Returns y; its gradient is also that of tap."""
    del tap
    return y


with_gradient_for_tap.defvjp(lambda y, tap: (y, None), lambda _, cotangent: (cotangent, cotangent))


def affine(weights, x, tap=None):
    """Treats each sample of x [B, C] by itself."""
    y = x @ weights["kernel"] + weights["bias"]
    return y if tap is None else with_gradient_for_tap(y, tap)


def step(weights, carry, x):
    """Uses one pair of weights twice, one once and one as usual, outside of `apply`."""
    hidden = jnp.tanh(
        recurrence.apply(affine, weights["in"], x) + recurrence.apply(affine, weights["state"], carry)
    )
    hidden = recurrence.apply(affine, weights["state"], hidden) * weights["gain"]
    return hidden, (hidden, jnp.sum(x))


@pytest.fixture
def example():
    """Returns (weights, carry [B, C], xs [T, B, C])."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def pair():
        return {"kernel": 0.5 * draw(3, 3), "bias": draw(3)}

    return {"in": pair(), "state": pair(), "gain": draw(3)}, draw(2, 3), draw(5, 2, 3)


def definition(weights, carry, xs):
    return jax.lax.scan(functools.partial(step, weights), carry, xs)


def test_values_equal_a_scan(example):
    got, want = jax.jit(functools.partial(recurrence.scan, step))(*example), jax.jit(definition)(*example)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), got, want)


def test_all_gradients_equal_those_of_a_scan(example):
    def loss(run, *operands):
        carry, (hidden, sums) = run(*operands)
        return jnp.sum(carry**2) + jnp.sum(hidden**3) + jnp.sum(sums)

    gradients = [
        jax.jit(jax.grad(functools.partial(loss, run), argnums=(0, 1, 2)))(*example)
        for run in (functools.partial(recurrence.scan, step), definition)
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5), *gradients)


def test_no_weight_gradient_is_left_in_the_backward_loop(example):
    def loss(*operands):
        return jnp.sum(recurrence.scan(step, *operands)[0])

    jaxpr = jax.make_jaxpr(jax.grad(loss))(*example).jaxpr
    loops = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert len(loops) == 2
    carried = [v.aval.shape for eqn in loops for v in eqn.outvars]
    assert (3, 3) not in carried  # a kernel's gradient would be summed up in one


def test_apply_outside_of_a_loop_runs_the_layer(example):
    weights, carry, _ = example
    np.testing.assert_array_equal(
        recurrence.apply(affine, weights["in"], carry), affine(weights["in"], carry)
    )


def convolving_step(weights, carry, x):
    """Two inputs, a sum and a rectifier in one layer; a product of pixels after it."""
    hidden = convolve(weights["first"], x, carry, slope=0.1, addend=carry)
    carry = convolve(weights["second"], hidden, slope=0.1)
    return carry, hidden


@pytest.mark.parametrize("sets", [(), (2,)])  # one convolution at each place, or a stack of two
def test_gradients_of_convolutions_with_rectifiers_equal_those_of_a_scan(sets):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return 0.4 * rng.standard_normal(shape).astype(np.float32)

    weights = {
        "first": Weights(draw(*sets, 3, 3, 5, 3), draw(*sets, 3)),
        "second": Weights(draw(*sets, 1, 1, 3, 3), draw(*sets, 3)),
    }
    operands = weights, draw(*sets, 2, 4, 5, 3), draw(4, *sets, 2, 4, 5, 2)

    def loss(run, *operands):
        carry, hidden = run(*operands)
        return jnp.sum(jnp.sin(carry)) + jnp.sum(hidden**2)

    def plain(weights, carry, xs):
        return jax.lax.scan(functools.partial(convolving_step, weights), carry, xs)

    got, want = (
        jax.jit(jax.grad(functools.partial(loss, run), argnums=(0, 1, 2)))(*operands)
        for run in (functools.partial(recurrence.scan, convolving_step), plain)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)
