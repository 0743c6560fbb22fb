"""The scanned bidirectional ConvLSTM against a Python loop over time, once per direction."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.models.conv_lstm import BidirectionalConvLSTM
from stvsr_jax.models.pcd import FeaturePyramid, PairFusion
from stvsr_jax.ops import stacks

# These tests spend their time compiling: leave the optimisation out.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

FEATURES, GROUPS, TIMES = 4, 2, 3


def random_params(shapes, seed=0):
    """Returns parameters of given shapes that leave nothing at its zero start."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: (0.3 * rng.standard_normal(s.shape)).astype(np.float32), shapes)


def conv(params, *inputs):
    x, pad = jnp.concatenate(inputs, -1), (params["kernel"].shape[0] - 1) // 2
    out = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out + params["bias"]


@jit
def naive_step(params, x, hidden, cell):
    """Returns (hidden, cell) after one step of the definition, on one feature [B, H, W, C]."""

    def aligned(name, state):
        def pyramid(feature):
            return FeaturePyramid(FEATURES).apply({"params": params[f"pyramid_{name}"]}, feature)

        fusion = PairFusion(FEATURES, GROUPS)
        return fusion.apply({"params": params[f"fusion_{name}"]}, pyramid(x), pyramid(state))

    hidden, cell = aligned("hidden", hidden), aligned("cell", cell)
    gates = conv(params["gates"], x, hidden)
    i, f, o, g = (gates[..., n * FEATURES : (n + 1) * FEATURES] for n in range(4))
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


@pytest.fixture(scope="module")
def sequence():
    """Returns (x [B, T, H, W, C], random parameters)."""
    x = np.random.default_rng(1).standard_normal((2, TIMES, 4, 8, FEATURES)).astype(np.float32)
    module = BidirectionalConvLSTM(FEATURES, GROUPS)
    return x, random_params(jax.eval_shape(module.init, jax.random.key(0), x)["params"])


def naive_direction(params, x, order):
    """Returns the hidden states by time, visiting the times in `order` from zero states."""
    hidden = cell = np.zeros((x.shape[0], *x.shape[2:]), np.float32)
    states = {}
    for t in order:
        hidden, cell = naive_step(params["cell"], x[:, t], hidden, cell)
        states[t] = hidden
    return states


@pytest.mark.parametrize("is_stacked", [False, True])
def test_bidirectional_equals_loop_in_both_directions(sequence, monkeypatch, is_stacked):
    x, params = sequence
    forward = naive_direction(params, x, range(TIMES))
    backward = naive_direction(params, x, reversed(range(TIMES)))
    want = np.stack([conv(params["merge"], forward[t], backward[t]) for t in range(TIMES)], axis=1)
    monkeypatch.setattr(
        stacks, "prefers_stacks", lambda dtype: is_stacked
    )  # all alignments in one stack, or one by one
    got = jit(BidirectionalConvLSTM(FEATURES, GROUPS).apply)({"params": params}, x)
    assert got.shape == x.shape
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.heavy  # two gradients of the whole scan to compile
def test_a_stack_of_all_alignments_has_the_gradient_of_one_after_the_other(sequence, monkeypatch):
    x, params = sequence

    def value_and_gradient():
        def loss(params, x):
            return jnp.sum(BidirectionalConvLSTM(FEATURES, GROUPS).apply({"params": params}, x) ** 2)

        return jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

    value, gradients = value_and_gradient()
    monkeypatch.setattr(stacks, "prefers_stacks", lambda dtype: True)
    stacked_value, stacked_gradients = value_and_gradient()
    np.testing.assert_allclose(stacked_value, value, rtol=1e-5)
    for got, want in zip(*map(jax.tree.leaves, (stacked_gradients, gradients)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.heavy  # two gradients of the whole scan to compile
def test_rematerialised_has_the_same_value_and_gradient(sequence):
    x, params = sequence

    def loss(x, remat):
        return jnp.sum(BidirectionalConvLSTM(FEATURES, GROUPS, remat=remat).apply({"params": params}, x) ** 2)

    value_and_grad = jit(jax.value_and_grad(loss), static_argnums=1)
    (value, gradient), (again, recomputed) = (value_and_grad(x, remat) for remat in (False, True))
    np.testing.assert_allclose(again, value, rtol=1e-5)
    np.testing.assert_allclose(recomputed, gradient, atol=1e-3 * np.abs(gradient).max())


def test_bfloat16_states_stay_bfloat16(sequence):
    x, params = sequence
    module = BidirectionalConvLSTM(FEATURES, GROUPS, dtype=jnp.bfloat16)
    out = jax.eval_shape(lambda x: module.apply({"params": params}, x), x)
    assert out.shape == x.shape and out.dtype == jnp.bfloat16


@pytest.mark.parametrize("has_gradients", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_programs_for_tpus_carry_lanes_and_are_the_same(has_gradients):
    module = BidirectionalConvLSTM(8, 2)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, TIMES, 8, 4, 8)), jnp.float32)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), x)["params"])

    def lower():
        def run(params, x):
            y, vjp = jax.vjp(lambda *a: module.apply({"params": a[0]}, a[1]), params, x)
            return (y, vjp(jnp.cos(y))) if has_gradients else y

        return jit(run).trace(params, x).lower(lowering_platforms=("cpu",))

    device = AbstractDevice(device_kind="any", num_cores=None, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
        of_tpu = lower()
    lanes = f"tensor<8x{2 * 2 * 8 * 4}xf32>"
    plain = lower()
    assert lanes in of_tpu.as_text() and lanes not in plain.as_text()
    found, want = (jax.tree.leaves(lowered.compile()(params, x)) for lowered in (of_tpu, plain))
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())
