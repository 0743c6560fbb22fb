"""SIREN: the split first layer against a plain MLP, and the initial bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.models import siren

INPUTS = (("features", 5), ("frames", 3), ("time", 1))
WIDTHS = (8, 6, 2)


@pytest.fixture(scope="module")
def network():
    """Returns (parameters, SirenWeights, inputs by name)."""
    module = siren.Siren(INPUTS, WIDTHS)
    params = jax.jit(module.init)(jax.random.key(0))["params"]
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal((4, 3, channels)).astype(np.float32) for name, channels in INPUTS}
    return params, module.apply({"params": params}), inputs


def plain_mlp(params, x):
    """Returns sin(30 (x W + b)) through the hidden layers and a linear last one, float64."""
    x = x.astype(np.float64)
    for layer in range(len(WIDTHS)):
        x = x @ np.asarray(params[f"kernel{layer}"], np.float64) + np.asarray(params[f"bias{layer}"])
        if layer < len(WIDTHS) - 1:
            x = np.sin(30.0 * x)
    return x


def test_project_and_finish_equal_the_plain_network(network):
    params, weights, inputs = network
    want = plain_mlp(params, np.concatenate([inputs[name] for name, _ in INPUTS], -1))
    got = siren.finish(weights, siren.project(weights, **inputs))
    (name, x), *others = inputs.items()
    rest = siren.project(weights, **dict(others))
    np.testing.assert_allclose(siren.finish(weights, rest, **{name: x}), got, atol=1e-5)
    assert got.dtype == jnp.float32 and got.shape == (4, 3, 2)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_projections_of_parts_add_up(network):
    _, weights, inputs = network
    parts = sum(siren.project(weights, **{name: x}) for name, x in inputs.items())
    np.testing.assert_allclose(parts, siren.project(weights, **inputs), atol=1e-6)
    backwards = dict(reversed(inputs.items()))
    np.testing.assert_allclose(parts, siren.project(weights, **backwards), atol=1e-6)


def test_bfloat16_products_are_summed_in_float32(network):
    _, weights, inputs = network
    projected = siren.project(weights, jnp.bfloat16, **inputs)
    got = siren.finish(weights, projected, jnp.bfloat16)
    assert projected.dtype == got.dtype == jnp.float32
    full = siren.project(weights, **inputs)
    np.testing.assert_allclose(projected, full, atol=0.02)
    # The later layers alone: 30 times a rounding of the first would be another phase.
    np.testing.assert_allclose(
        siren.finish(weights, full, jnp.bfloat16), siren.finish(weights, full), atol=0.05
    )


def test_initial_values_have_the_bounds_of_the_paper():
    module = siren.Siren((("a", 100), ("b", 100)), (256, 256, 64))
    params = jax.jit(module.init)(jax.random.key(0))["params"]
    fans = (200, 256, 256)
    kernel_bounds = (1 / 200, np.sqrt(6 / 256) / 30, np.sqrt(6 / 256) / 30)
    for layer, (fan_in, bound) in enumerate(zip(fans, kernel_bounds, strict=True)):
        kernel, bias = np.asarray(params[f"kernel{layer}"]), np.asarray(params[f"bias{layer}"])
        assert kernel.shape[0] == fan_in
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.03)
        assert 0.9 / np.sqrt(fan_in) < np.abs(bias).max() <= 1 / np.sqrt(fan_in)  # PyTorch's linear default


def test_rows_follow_the_order_of_the_inputs(network):
    params, weights, _ = network
    np.testing.assert_array_equal(
        np.concatenate([weights.rows["features"], weights.rows["frames"], weights.rows["time"]]),
        params["kernel0"],
    )
