"""Programs for TPUs run the SIREN MLP as kernels and keep its first sum alone."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.ops import sine_mlp

SHAPES = [(2, 5, 16), (2, 5, 32), (32, 16)], [(16, 32), (32, 3)], [(16,), (32,), (3,)]


def run(x, y, rows, *weights):
    kernels, biases = weights[:2], weights[2:]
    return sine_mlp(x, kernels, biases, inputs=[(y, rows)], frequency=30.0)


def on_a_tpu(function, *args):
    device = AbstractDevice(device_kind="any", num_cores=None, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
        return function(*args)


def draw():
    rng = np.random.default_rng(0)
    return [jnp.asarray(0.1 * rng.normal(size=s), jnp.float32) for shapes in SHAPES for s in shapes]


def with_gradients(*operands):
    y, vjp = jax.vjp(run, *operands)
    return y, *vjp(jnp.cos(y))


def test_kernels_are_a_tpus_alone():
    traced = on_a_tpu(jax.jit(with_gradients).trace, *draw())
    for platform, kernels in (("tpu", 2), ("cpu", 0)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("tpu_custom_call") == kernels


def test_other_platforms_get_the_same_values_and_gradients():
    operands = draw()
    found = (
        on_a_tpu(jax.jit(with_gradients).trace, *operands)
        .lower(lowering_platforms=("cpu",))
        .compile(device_assignment=(jax.devices()[0],))
    )
    for a, b in zip(found(*operands), jax.jit(with_gradients)(*operands), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_keep_the_first_sum_alone():
    def kept(*operands):
        return jax.vjp(run, *operands)[1]

    shapes = {x.shape for x in jax.tree.leaves(on_a_tpu(jax.eval_shape, kept, *draw()))}
    assert (16, 10) in shapes
    assert not shapes & {(32, 10), (2, 5, 32 + 16), (10, 32)}
