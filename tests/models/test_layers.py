"""Shared layers against loops and against the bounds of their initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.models.layers import (
    LEAKY_RELU,
    Conv,
    ResidualBlock,
    ResidualStack,
    convolve,
    fan_in_uniform,
)
from stvsr_jax.ops import ConvWeights


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def naive_conv(x, kernel, bias, stride):
    """Returns float64 [B, H', W', C']: (k - 1) // 2 zeros on each side, then every stride-th position."""
    size = kernel.shape[0]
    pad = (size - 1) // 2
    kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = range(0, x.shape[1] - size + 1, stride)
    columns = range(0, x.shape[2] - size + 1, stride)
    out = np.zeros((x.shape[0], len(rows), len(columns), kernel.shape[-1])) + bias
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            out[:, i, j] += np.einsum("bhwc,hwco->bo", x[:, row : row + size, column : column + size], kernel)
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_conv_equals_loop_padded_on_both_sides(size, kernel_size, stride):
    x = normal(0, 2, *size, 3)
    params = {"kernel": normal(1, kernel_size, kernel_size, 3, 4), "bias": normal(2, 4)}
    got = Conv(4, kernel_size=kernel_size, stride=stride).apply({"params": params}, x)
    assert got.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 4)
    np.testing.assert_allclose(got, naive_conv(x, params["kernel"], params["bias"], stride), atol=1e-5)


def test_conv_of_several_inputs_is_conv_of_their_concatenation():
    a, b = normal(0, 1, 4, 5, 3), normal(1, 1, 4, 5, 2)
    variables = {"params": {"kernel": normal(2, 3, 3, 5, 4), "bias": normal(3, 4)}}
    want = Conv(4).apply(variables, np.concatenate([a, b], -1))
    np.testing.assert_allclose(Conv(4).apply(variables, a, b), want, atol=1e-6)


def test_conv_in_bfloat16_keeps_float32_parameters():
    x = normal(0, 1, 6, 7, 8)
    layer = Conv(4, dtype=jnp.bfloat16)
    params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
    assert {p.dtype for p in params.values()} == {jnp.dtype(jnp.float32)}
    got = layer.apply({"params": params}, x)
    assert got.dtype == jnp.bfloat16
    want = naive_conv(x, params["kernel"], params["bias"], 1)
    np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=0.03)


def assert_uniform(values, bound):
    """Checks bound, reach and standard deviation of samples of U(-bound, bound)."""
    values = np.asarray(values)
    assert np.abs(values).max() <= bound
    assert values.min() < -0.98 * bound and values.max() > 0.98 * bound
    np.testing.assert_allclose(values.std(), bound / np.sqrt(3), rtol=0.03)


def test_conv_starts_with_pytorch_defaults():
    params = jax.jit(Conv(512).init)(jax.random.key(0), jnp.zeros((1, 4, 4, 20)))["params"]
    assert_uniform(params["kernel"], 1 / np.sqrt(9 * 20))
    assert_uniform(params["bias"], 1 / np.sqrt(9 * 20))


def test_fan_in_uniform_is_bounded_by_the_root():
    assert_uniform(fan_in_uniform(16)(jax.random.key(1), (4096,)), 0.25)


def test_leaky_relu_slope_is_a_tenth():
    def leaky_relu(x):
        weights = ConvWeights(jnp.ones((1, 1, 1, 1), x.dtype), jnp.zeros(1, x.dtype))
        return convolve(weights, x.reshape(1, 1, -1, 1), slope=LEAKY_RELU).ravel()

    np.testing.assert_allclose(leaky_relu(jnp.array([-2.0, 0.0, 3.0])), [-0.2, 0, 3], atol=1e-7)
    assert leaky_relu(jnp.ones(1, jnp.bfloat16)).dtype == jnp.bfloat16


def test_residual_block_starts_he_normal_scaled_with_zero_biases():
    params = jax.jit(ResidualBlock(64).init)(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]
    assert set(params) == {"conv1", "conv2"}
    for conv in params.values():
        kernel = np.asarray(conv["kernel"])
        deviation = 0.1 * np.sqrt(2 / (9 * 64))
        np.testing.assert_allclose(kernel.std(), deviation, rtol=0.02)
        assert np.abs(kernel).max() > 3 * deviation  # not truncated
        np.testing.assert_array_equal(conv["bias"], np.zeros(64))


@pytest.fixture(scope="module")
def stack():
    """Returns (x, random parameters) of a stack of 3 blocks of 6 features."""
    x = normal(0, 2, 5, 7, 6)
    shapes = jax.eval_shape(ResidualStack(6, 3).init, jax.random.key(0), x)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    return x, jax.tree.unflatten(tree, [0.2 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves, 1)])


def test_residual_stack_equals_loop_over_its_blocks(stack):
    x, params = stack
    want = x
    for block in range(3):
        one = jax.tree.map(lambda p, block=block: p[block], params["blocks"])
        hidden = np.maximum(naive_conv(want, one["conv1"]["kernel"], one["conv1"]["bias"], 1), 0)
        want = want + naive_conv(hidden, one["conv2"]["kernel"], one["conv2"]["bias"], 1)
    np.testing.assert_allclose(ResidualStack(6, 3).apply({"params": params}, x), want, rtol=1e-5, atol=1e-5)


def test_residual_stack_rematerialised_has_the_same_values_and_gradients(stack):
    x, params = stack

    def loss(params, x, remat):
        return jnp.sum(ResidualStack(6, 3, remat=remat).apply({"params": params}, x) ** 2)

    value_and_grad = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    (plain, gradients), (again, recomputed) = (value_and_grad(params, x, remat) for remat in (False, True))
    np.testing.assert_allclose(again, plain, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(recomputed), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_residual_stack_blocks_start_different():
    params = jax.jit(ResidualStack(4, 3).init)(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))["params"]
    kernel = params["blocks"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 3, 4, 4)
    assert not np.array_equal(kernel[0], kernel[1]) and not np.array_equal(kernel[1], kernel[2])
