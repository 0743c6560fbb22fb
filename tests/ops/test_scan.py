"""The scan with deferred kernel gradients against `jax.lax.scan` of the same step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.ops import ConvWeights, map_steps, scan, scan_layers


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


def test_rematerialised_gradients_equal_those_of_a_scan_and_nothing_is_kept(example):
    def of(run):
        return jax.grad(functools.partial(loss, run), argnums=(0, 1, 2))

    rematerialised = of(functools.partial(scan, step, remat=True))
    got, want = jax.jit(rematerialised)(*example), jax.jit(of(definition))(*example)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)
    _, forward_carry, xs = example
    loops = [e for e in jax.make_jaxpr(rematerialised)(*example).jaxpr.eqns if e.primitive.name == "scan"]
    stacked = [v.aval.shape for v in loops[0].outvars if v.aval.shape[:1] == xs.shape[:1]]
    assert stacked.count((len(xs), *forward_carry.shape)) == 2  # the ys and the carries, of three such inputs


TPU = AbstractMesh(
    (1,), ("device",), abstract_device=AbstractDevice(device_kind="any", num_cores=None, platform="tpu")
)


@pytest.mark.parametrize("remat", [False, True])
def test_a_tpu_carries_pixels_along_the_lanes_and_gets_the_same(example, remat):
    def run(weights, carry, xs):
        return scan(tpu_step, weights, carry, (xs, xs.reshape(4, -1, 5, 2)), remat=remat)

    def tpu_step(weights, carry, xs):  # no layer, whose kernels do not run here
        x, lines = xs
        carry = jnp.tanh(carry * weights["gain"]) + jnp.mean(lines * jnp.arange(5.0)[:, None])
        return carry, (carry[..., :2] + x, jnp.sum(x))

    want = jax.jit(run)(*example)
    with jax.sharding.use_abstract_mesh(TPU):
        traced = jax.jit(run).trace(*example)
    _, carry, xs = example
    (loop,) = (e for e in traced.jaxpr.eqns if e.primitive.name == "scan")
    pixels = carry.shape[-4] * carry.shape[-3] * carry.shape[-2]
    shapes = [v.aval.shape for v in loop.outvars]
    assert shapes == [(*carry.shape[:-4], 3, pixels), (*xs.shape[:-4], 2, pixels), (4,)]
    got = traced.lower(lowering_platforms=("cpu",)).compile(device_assignment=(jax.devices()[0],))(*example)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, want)


def test_an_image_goes_through_all_layers():
    image, gains = jnp.ones((2, 3, 5, 4)), jnp.arange(1.0, 4.0)

    def lift(body):
        return lambda gains, carry, _: jax.lax.scan(lambda c, gain: body(gain, c, None), carry, gains)

    def run(gains, image):
        return scan_layers(lift, lambda gain, x: gain * x + x[:1, :1, :1], gains, image)

    np.testing.assert_array_equal(run(gains, image), np.full(image.shape, 2.0 * 3.0 * 4.0))
    with jax.sharding.use_abstract_mesh(TPU):
        jaxpr = jax.make_jaxpr(run)(gains, image).jaxpr
    (loop,) = (e for e in jaxpr.eqns if e.primitive.name == "scan")
    assert loop.outvars[0].aval.shape == (4, 30)


def test_a_tpu_maps_with_pixels_along_the_lanes_and_gets_the_same():
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((3, 2, 1, 4, 5, 6)).astype(np.float32), np.arange(3.0, dtype=np.float32)

    def run(xs):
        return map_steps(lambda x: (x[1] * jnp.cumsum(x[0], axis=3), jnp.sum(x[0])), xs)

    want = xs[1].reshape(-1, *[1] * 5) * np.cumsum(xs[0], axis=4), xs[0].sum((1, 2, 3, 4, 5))
    with jax.sharding.use_abstract_mesh(TPU):
        traced = jax.jit(run).trace(xs)
    (loop,) = (e for e in traced.jaxpr.eqns if e.primitive.name == "scan")
    assert [v.aval.shape for v in (*loop.invars, *loop.outvars)] == [(3, 2, 6, 20), (3,), (3, 2, 6, 20), (3,)]
    on_tpu = traced.lower(lowering_platforms=("cpu",)).compile(device_assignment=(jax.devices()[0],))(xs)
    for got in (on_tpu, jax.jit(run)(xs)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, want)


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
