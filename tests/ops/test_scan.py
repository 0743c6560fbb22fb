"""The scan with deferred kernel gradients against `jax.lax.scan` of the same step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops import ConvWeights, scan


def step(weights, carry, x):
    """Two inputs, an addend and a ReLU in one layer; a product of pixels; one pair of weights twice; other arrays."""
    place = dict(stride=1, padding=1)
    hidden = weights["first"].convolve((x, carry), slope=0.1, addend=carry, **place)
    hidden = weights["second"].convolve((hidden,), stride=1, padding=0, slope=0.1)
    carry = weights["third"].convolve((hidden,), **place) + weights["third"].convolve((carry,), **place)
    carry = jnp.tanh(carry * weights["gain"])
    return carry, (hidden, jnp.sum(x))


@pytest.fixture(params=[(), (2,)], ids=["single", "stack"])
def example(request):
    """Returns (weights, carry [.., B, H, W, C], xs [T, .., B, H, W, C]) of one convolution at each place, or of two."""
    rng, sets = np.random.default_rng(0), request.param

    def draw(*shape):
        return 0.4 * rng.standard_normal(shape).astype(np.float32)

    weights = {
        "first": ConvWeights(draw(*sets, 3, 3, 5, 3), draw(*sets, 3)),
        "second": ConvWeights(draw(*sets, 1, 1, 3, 3), draw(*sets, 3)),
        "third": ConvWeights(draw(*sets, 3, 3, 3, 3), draw(*sets, 3)),
        "gain": draw(3),
    }
    return weights, draw(*sets, 2, 4, 5, 3), draw(4, *sets, 2, 4, 5, 2)


def definition(weights, carry, xs):
    return jax.lax.scan(functools.partial(step, weights), carry, xs)


def test_values_equal_a_scan(example):
    got, want = jax.jit(functools.partial(scan, step))(*example), jax.jit(definition)(*example)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, want)


def loss(run, *operands):
    carry, (hidden, sums) = run(*operands)
    return jnp.sum(jnp.sin(carry)) + jnp.sum(hidden**2) + jnp.sum(sums)


def test_all_gradients_equal_those_of_a_scan(example):
    got, want = (
        jax.jit(jax.grad(functools.partial(loss, run), argnums=(0, 1, 2)))(*example)
        for run in (functools.partial(scan, step), definition)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


def test_no_kernel_gradient_is_left_in_the_backward_loop(example):
    weights, *_ = example
    jaxpr = jax.make_jaxpr(jax.grad(functools.partial(loss, functools.partial(scan, step))))(*example).jaxpr
    loops = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert len(loops) == 2
    carried = [v.aval.shape for eqn in loops for v in eqn.outvars]
    for name in ("first", "second", "third"):
        assert weights[name].kernel.shape not in carried  # its gradient would be a running total
    assert weights["first"].bias.shape in carried


def test_the_samples_of_a_deformable_convolution_give_its_kernels_gradient():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return 0.4 * rng.standard_normal(shape).astype(np.float32)

    def deforming_step(weights, carry, x):
        head = weights["head"].convolve((x,), stride=1, padding=1)
        carry = weights["deform"].deform(carry, head, groups=1, slope=0.1)
        return carry, jnp.sum(carry)

    def plain(weights, carry, xs):
        return jax.lax.scan(functools.partial(deforming_step, weights), carry, xs)

    weights = {
        "head": ConvWeights(draw(3, 3, 2, 27), draw(27)),
        "deform": ConvWeights(draw(1, 1, 27, 3), draw(3)),
    }
    operands = weights, draw(1, 5, 6, 3), draw(3, 1, 5, 6, 2)
    got, want = (
        jax.jit(jax.grad(lambda *args, run=run: jnp.sum(run(*args)[0] ** 2), argnums=(0, 1, 2)))(*operands)
        for run in (functools.partial(scan, deforming_step), plain)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


def test_a_kernel_cannot_be_read_past_the_convolution_where_its_gradient_would_be_lost(example):
    def reads_kernel(weights, carry, x):
        return carry * jnp.sum(weights["first"].kernel), x

    with pytest.raises(TypeError):
        jax.grad(functools.partial(loss, lambda *args: (scan(reads_kernel, *args)[0], (jnp.zeros(1), 0.0))))(
            *example
        )
