"""Zooming Slow-Mo: shapes, the head written out, and bfloat16. Values of the whole: test_parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.models.zooming_slowmo import ZoomingSlowMo

# These tests spend their time compiling: leave the optimisation out.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SIZES = dict(features=4, front_blocks=1, back_blocks=1, groups=2)


@pytest.fixture(scope="module")
def network():
    """Returns (random parameters, frames of 2 frames)."""
    rng = np.random.default_rng(0)
    frames = rng.uniform(size=(1, 2, 4, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(ZoomingSlowMo(**SIZES).init, jax.random.key(0), frames)["params"]
    params = jax.tree.map(lambda s: (0.2 * rng.standard_normal(s.shape)).astype(np.float32), shapes)
    return params, frames


@pytest.mark.parametrize("count", [2, 3, 4])
def test_output_has_twice_the_frames_less_one_at_four_times_the_size(network, count):
    params, _ = network
    frames = jax.ShapeDtypeStruct((2, count, 12, 8, 3), jnp.float32)
    out = jax.eval_shape(ZoomingSlowMo(**SIZES).apply, {"params": params}, frames)
    assert out.shape == (2, 2 * count - 1, 48, 32, 3) and out.dtype == jnp.float32


def conv(params, x):
    layout = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=layout)
    return np.asarray(out + params["bias"])


def lrelu(x):
    return np.where(x > 0, x, 0.1 * x)


def shuffle(x):
    """Returns [B, 2H, 2W, C]: channel c at (2y + i, 2x + j) is channel 4 c + 2 i + j."""
    out = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3] // 4), np.float32)
    for i, j in np.ndindex(2, 2):
        out[:, i::2, j::2] = x[..., 2 * i + j :: 4]
    return out


@pytest.fixture(scope="module")
def encoded_and_output(network):
    """Returns the encoder's output and the network's, float32."""
    params, frames = network

    @jit
    def apply(params, frames):
        return ZoomingSlowMo(**SIZES).apply(
            {"params": params}, frames, capture_intermediates=lambda module, _: module.name == "encoder"
        )

    out, state = apply(params, frames)
    return state["intermediates"]["encoder"]["__call__"][0], out


def test_head_is_two_shuffles_and_two_convolutions(network, encoded_and_output):
    params, _ = network
    encoded, out = encoded_and_output
    x = encoded[0]
    for name in ("up1", "up2"):
        x = lrelu(shuffle(conv(params[name], x)))
    want = conv(params["to_rgb"], lrelu(conv(params["refine"], x)))
    np.testing.assert_allclose(out[0], want, atol=2e-5)


def test_bfloat16_output_is_float32_finite_and_near(network, encoded_and_output):
    params, frames = network
    _, full = encoded_and_output
    half = jit(ZoomingSlowMo(**SIZES, dtype=jnp.bfloat16).apply)({"params": params}, frames)
    assert half.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(half)))
    assert 0 < np.linalg.norm(half - full) < 0.1 * np.linalg.norm(full)


@pytest.mark.parametrize("size", [(6, 8), (8, 9)])
def test_frames_that_are_not_multiples_of_4_are_named(size):
    frames = jnp.zeros((1, 2, *size, 3))
    with pytest.raises(ValueError, match=f"multiples of 4, got {size[0]}x{size[1]}"):
        jax.eval_shape(ZoomingSlowMo(**SIZES).init, jax.random.key(0), frames)
