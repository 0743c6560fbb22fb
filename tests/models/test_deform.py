"""The guided deformable convolution: its zero start and the order of its head's channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.models.deform import DeformConv

FEATURES, GROUPS, TAPS = 4, 2, 9


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def layer():
    """Returns (apply(params, x, guide), initial parameters, x, guide)."""
    x, guide = normal(0, 1, 6, 7, FEATURES), normal(1, 1, 6, 7, 3)
    module = DeformConv(FEATURES, GROUPS)
    params = jax.jit(module.init)(jax.random.key(0), x, guide)["params"]
    return jax.jit(lambda *args: module.apply({"params": args[0]}, *args[1:])), params, x, guide


def naive_integer_deform(x, kernel, bias, offset, mask):
    """Returns [B, H, W, C'] with one integer offset (y, x) and one mask per group and tap, everywhere."""
    size, margin = x.shape[1:3], 4
    wide = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    each = x.shape[-1] // offset.shape[0]
    out = np.zeros((*x.shape[:3], kernel.shape[-1]), np.float32) + bias
    for g, k in np.ndindex(*mask.shape):
        ky, kx = k // 3, k % 3
        top, left = margin + ky - 1 + offset[g, k, 0], margin + kx - 1 + offset[g, k, 1]
        part = wide[:, top : top + size[0], left : left + size[1], g * each : (g + 1) * each]
        out += mask[g, k] * part @ kernel[ky, kx, g * each : (g + 1) * each]
    return out


def test_fresh_layer_is_half_a_convolution_plus_bias(layer):
    apply, params, x, guide = layer
    for part in params["head"].values():
        np.testing.assert_array_equal(part, np.zeros_like(part))
    np.testing.assert_array_equal(params["bias"], np.zeros(FEATURES))
    bias = normal(2, FEATURES)
    convolution = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    got = apply(params | {"bias": bias}, x, guide)
    np.testing.assert_allclose(got, 0.5 * convolution + bias, atol=1e-5)


def test_kernel_starts_uniform_in_the_root_of_its_fan_in():
    module = DeformConv(64)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 64)), jnp.zeros((1, 2, 2, 64)))[
        "params"
    ]
    kernel, bound = np.asarray(params["kernel"]), 1 / np.sqrt(9 * 64)
    assert params["head"]["kernel"].shape == (3, 3, 64, 216)
    assert kernel.shape == (3, 3, 64, 64)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)


def test_each_head_channel_moves_one_offset_or_one_mask(layer):
    apply, params, x, guide = layer
    for channel in range(27 * GROUPS):
        value = 1.0 if channel < 18 * GROUPS else 30.0  # one pixel, or a mask of one
        head_bias = np.zeros(27 * GROUPS, np.float32)
        head_bias[channel] = value
        offset = np.zeros((GROUPS, TAPS, 2), int)
        mask = np.full((GROUPS, TAPS), 0.5)
        if channel < 18 * GROUPS:  # 18 g + 2 k + {0: y, 1: x}
            offset[channel // 18, channel % 18 // 2, channel % 2] = 1
        else:  # 9 g + k
            mask[(channel - 18 * GROUPS) // 9, (channel - 18 * GROUPS) % 9] = 1.0
        moved = params | {"head": params["head"] | {"bias": head_bias}}
        want = naive_integer_deform(x, np.asarray(params["kernel"]), np.asarray(params["bias"]), offset, mask)
        np.testing.assert_allclose(apply(moved, x, guide), want, atol=1e-5, err_msg=f"channel {channel}")


def test_head_reads_the_guide(layer):
    apply, params, x, guide = layer
    # Centre tap, guide channel 2 -> mask logit of group 1, tap 4: only where the guide is large.
    head_kernel = np.zeros_like(params["head"]["kernel"])
    head_kernel[1, 1, 2, 18 * GROUPS + 9 + 4] = 30.0
    guide = np.zeros_like(guide)
    guide[0, 2, 3, 2] = 1.0
    moved = params | {"head": params["head"] | {"kernel": head_kernel}}
    change = np.asarray(apply(moved, x, guide) - apply(params, x, guide))
    want = np.zeros_like(change)
    want[0, 2, 3] = 0.5 * x[0, 2, 3, 2:] @ np.asarray(params["kernel"])[1, 1, 2:]
    np.testing.assert_allclose(change, want, atol=1e-5)


def test_head_learns_from_the_zero_start(layer):
    apply, params, x, guide = layer
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(apply(p, x, guide) ** 2)))(params)["head"]
    assert np.all(np.abs(gradient["bias"]) > 0)
    assert np.all(np.abs(gradient["kernel"]).max(axis=(0, 1, 2)) > 0)
