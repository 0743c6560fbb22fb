"""The TPU's convolution kernels, interpreted on the CPU, against XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops.conv import tpu
from stvsr_jax.ops.lanes import from_lanes, to_lanes

SHAPE = (2, 9, 33)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@jax.jit
def convolve(x, kernel):
    pads = [(1, 1), (1, 1)]
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=names, precision="highest")


def run(inputs, kernel, bias=None, addend=None, slope=None):
    shape = inputs[0].shape[:3]
    addend = None if addend is None else to_lanes(addend)
    inputs = [to_lanes(x) for x in inputs]
    y = tpu.run(shape[1:], inputs, kernel, bias, addend, slope=slope, interpret=True)
    return from_lanes(y, shape)


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(tpu, "_BLOCK", 256)


@pytest.mark.parametrize("size", [(4, 4), (33, 1), (180, 320), (720, 1280)])
def test_halos_hold_a_row_and_a_pixel(size):
    plan = tpu.Plan.of(3 * size[0] * size[1], size)
    assert plan.halo > size[1] and plan.block % plan.halo == 0 and plan.block % plan.chunk == 0
    assert (plan.count - 1) * plan.block < plan.pixels <= plan.count * plan.block


@pytest.mark.parametrize("channels, outputs", [((16,), 24), ((32, 16), 8), ((3,), 16), ((24,), 3)])
def test_equals_the_convolution_with_what_follows(channels, outputs):
    inputs = [draw(*SHAPE, c, seed=c) for c in channels]
    kernel, bias, addend = draw(3, 3, sum(channels), outputs), draw(outputs), draw(*SHAPE, outputs, seed=9)
    want = convolve(jnp.concatenate(inputs, axis=-1), kernel)
    plain = run(inputs, kernel)
    np.testing.assert_allclose(plain, want, rtol=1e-4, atol=1e-4)
    want = want + bias + addend
    found = run(inputs, kernel, bias, addend, 0.1)
    np.testing.assert_allclose(found, jnp.maximum(want, 0.1 * want), rtol=1e-4, atol=1e-4)


def test_images_do_not_mix():
    x = draw(2, 5, 6, 16).at[1].set(jnp.nan)
    y = run([x], draw(3, 3, 16, 8))
    assert jnp.isfinite(y[0]).all() and jnp.isnan(y[1]).all()


@pytest.mark.parametrize("channels, outputs", [((32, 16), 24), ((24,), 3)])
def test_gradients_equal_those_of_the_convolution(channels, outputs):
    inputs = [draw(*SHAPE, c, seed=c) for c in channels]
    kernel, cotangent = draw(3, 3, sum(channels), outputs), draw(*SHAPE, outputs, seed=9)
    d_x, d_kernel = jax.vjp(convolve, jnp.concatenate(inputs, axis=-1), kernel)[1](cotangent)
    lanes = [to_lanes(x) for x in inputs]
    found, found_kernel = tpu.run_backward(SHAPE[1:], lanes, kernel, to_lanes(cotangent), interpret=True)
    found = [from_lanes(x, SHAPE) for x in found]
    assert [x.shape for x in found] == [x.shape for x in inputs]
    np.testing.assert_allclose(jnp.concatenate(found, axis=-1), d_x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found_kernel, d_kernel, rtol=1e-3, atol=1e-3)


def test_16_bits_are_close_and_keep_their_dtype():
    x, kernel = draw(*SHAPE, 16), draw(3, 3, 16, 16, seed=1)
    y = run([x.astype(jnp.bfloat16)], kernel.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    want = convolve(x, kernel)
    assert jnp.linalg.norm(y - want) < 0.01 * jnp.linalg.norm(want)
