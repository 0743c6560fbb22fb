"""Alignment and fusion of a pair, written out level by level."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.models.deform import DeformConv
from stvsr_jax.models.pcd import FeaturePyramid, PairFusion
from stvsr_jax.ops import stacks

# These tests spend their time compiling: leave the optimisation out.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

FEATURES, GROUPS = 4, 2


def random_params(shapes, seed=0):
    """Returns parameters of given shapes that leave nothing at its zero start."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: (0.3 * rng.standard_normal(s.shape)).astype(np.float32), shapes)


def conv(params, *inputs, stride=1):
    pad = (params["kernel"].shape[0] - 1) // 2
    out = jax.lax.conv_general_dilated(
        jnp.concatenate(inputs, -1),
        params["kernel"],
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out + params["bias"]


def lrelu(x):
    return jax.nn.leaky_relu(x, 0.1)


def up(x):
    """Returns [B, 2H, 2W, C]: bilinear, half-pixel centres, edges clamped."""
    return jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "bilinear")


def deform(params, x, guide):
    return DeformConv(FEATURES, GROUPS).apply({"params": params}, x, guide)


def align(p, a, b):
    """Returns `a` sampled so that it lies over `b`, as the alignment is defined."""
    (a1, a2, a3), (b1, b2, b3) = a, b
    o3 = lrelu(conv(p["level3_offset1"], a3, b3))
    o3 = lrelu(conv(p["level3_offset2"], o3))
    f3 = lrelu(deform(p["level3_deform"], a3, o3))

    o2 = lrelu(conv(p["level2_offset1"], a2, b2))
    o2 = lrelu(conv(p["level2_offset2"], o2, 2 * up(o3)))
    o2 = lrelu(conv(p["level2_offset3"], o2))
    f2 = lrelu(conv(p["level2_merge"], deform(p["level2_deform"], a2, o2), up(f3)))

    o1 = lrelu(conv(p["level1_offset1"], a1, b1))
    o1 = lrelu(conv(p["level1_offset2"], o1, 2 * up(o2)))
    o1 = lrelu(conv(p["level1_offset3"], o1))
    return conv(p["level1_merge"], deform(p["level1_deform"], a1, o1), up(f2))  # no activation


def random_pyramid(seed):
    rng = np.random.default_rng(seed)
    return tuple(
        rng.standard_normal((2, h, w, FEATURES)).astype(np.float32) for h, w in ((8, 12), (4, 6), (2, 3))
    )


@pytest.fixture(scope="module")
def pair():
    return random_pyramid(1), random_pyramid(2)


def test_pyramid_halves_twice_with_two_convolutions_each():
    x = np.random.default_rng(0).standard_normal((1, 8, 12, FEATURES)).astype(np.float32)
    module = FeaturePyramid(FEATURES)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    level1, level2, level3 = jit(module.apply)({"params": params}, x)
    np.testing.assert_array_equal(level1, x)
    assert level2.shape == (1, 4, 6, FEATURES) and level3.shape == (1, 2, 3, FEATURES)

    def halve(level, x):
        x = lrelu(conv(params[f"level{level}_conv1"], x, stride=2))
        return lrelu(conv(params[f"level{level}_conv2"], x))

    np.testing.assert_allclose(level2, halve(2, x), atol=1e-5)
    np.testing.assert_allclose(level3, halve(3, halve(2, x)), atol=1e-5)


@pytest.mark.parametrize("is_array", [False, True])
def test_fusion_aligns_both_ways_with_two_weight_sets(pair, is_array, monkeypatch):
    monkeypatch.setattr(stacks, "prefers_stacks", lambda dtype: is_array)
    a, b = pair
    module = PairFusion(FEATURES, GROUPS)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), a, b)["params"])
    assert params["fuse"]["kernel"].shape == (1, 1, 2 * FEATURES, FEATURES)

    def fuse(p, a, b):
        return conv(p["fuse"], align(p["align_a"], a, b), align(p["align_b"], b, a))

    np.testing.assert_allclose(
        jit(module.apply)({"params": params}, a, b), jit(fuse)(params, a, b), rtol=1e-4, atol=5e-5
    )
