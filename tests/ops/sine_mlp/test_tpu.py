"""The TPU's SIREN MLP, interpreted on the CPU, against the layers one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops import sine_mlp
from stvsr_jax.ops.lanes import from_lanes, to_lanes
from stvsr_jax.ops.sine_mlp import tpu

OPTIONS = dict(frequency=30.0, dtype=jnp.float32)


def draw(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def network(widths, points):
    kernels = tuple(
        draw(a, b, seed=i, scale=(2 / a) ** 0.5 / 30)
        for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
    )
    return draw(points, widths[0], scale=0.3), kernels, tuple(draw(w, seed=w, scale=0.05) for w in widths)


@pytest.mark.parametrize("widths", [(32, 16, 48, 3), (16, 32, 64)])
@pytest.mark.parametrize("points", [37, 300])  # the last block is not full
def test_values_and_gradients_equal_the_layers(monkeypatch, widths, points):
    monkeypatch.setattr(tpu, "_BLOCK", 128)
    operands = network(widths, points)
    cotangent = draw(points, widths[-1], seed=9)
    plain = dict(OPTIONS, implementation="xla")
    want, vjp = jax.vjp(lambda *a: sine_mlp(*a, **plain), *operands)
    lanes = to_lanes(operands[0]), *operands[1:]
    found = tpu.run(*lanes, **OPTIONS, out_dtype=jnp.float32, interpret=True)
    np.testing.assert_allclose(from_lanes(found, [points]), want, rtol=1e-4, atol=1e-5)
    d_x, *others = tpu.run_backward(*lanes, to_lanes(cotangent), **OPTIONS, interpret=True)
    found = from_lanes(d_x, [points]), *others
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(vjp(cotangent)), strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)


def test_16_bits_are_close():
    x, kernels, biases = network((64, 64, 128, 16), 150)
    want = sine_mlp(x, kernels, biases, frequency=30.0)
    options = dict(frequency=30.0, dtype=jnp.bfloat16, out_dtype=jnp.bfloat16)
    y = tpu.run(to_lanes(x), kernels, biases, **options, interpret=True)
    assert y.dtype == jnp.bfloat16
    assert np.linalg.norm(y.T.astype(jnp.float32) - want) < 0.02 * np.linalg.norm(want)


def test_what_is_not_supported_is_said():
    _, kernels, _ = network((64, 64, 256, 256, 3), 1)
    assert tpu.is_supported(kernels, jnp.bfloat16)
    assert not tpu.is_supported(kernels, jnp.float16)
    assert not tpu.is_supported((kernels[0][:40],), jnp.bfloat16)
    assert not tpu.is_supported((draw(512, 64),), jnp.bfloat16)
