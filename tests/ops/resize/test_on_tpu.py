"""Programs for TPUs double and halve images by a kernel; other platforms get the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.ops import upsample_bilinear_2x
from stvsr_jax.ops.resize import on_tpu


def trace_for_tpu(function, *args):
    device = AbstractDevice(device_kind="any", num_cores=None, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
        return jax.jit(function).trace(*args)


@pytest.mark.parametrize(
    "function, wanted",
    [
        (lambda x: upsample_bilinear_2x(x, 2.0), lambda x: upsample_bilinear_2x(x, 2.0)),
        (on_tpu.halve, lambda x: x[:, ::2, ::2]),
    ],
)
def test_values_and_gradients_are_the_same_without_the_kernels(function, wanted):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 8)), jnp.float32)

    def with_gradient(function):
        def run(x):
            y, vjp = jax.vjp(function, x)
            return y, *vjp(jnp.cos(y))

        return run

    traced = trace_for_tpu(with_gradient(function), x)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 2
    found = traced.lower(lowering_platforms=("cpu",)).compile(device_assignment=(jax.devices()[0],))(x)
    for a, b in zip(found, jax.jit(with_gradient(wanted))(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
