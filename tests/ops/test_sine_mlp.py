"""The sine perceptron: every implementation against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from stvsr_jax.ops import sine_mlp, sine_mlp_triton

FREQUENCY = 30.0


def network(widths, points=(3, 37), seed=0):
    """Returns (x, kernels, biases) with arguments of the sines as a trained SIREN has them."""
    rng = np.random.default_rng(seed)
    pairs = zip(widths[:-1], widths[1:], strict=True)
    kernels = [rng.uniform(-1, 1, (a, b)) * np.sqrt(6 / a) / FREQUENCY for a, b in pairs]
    biases = [0.05 * rng.standard_normal(w) for w in widths]
    x = 0.3 * rng.standard_normal((*points, widths[0]))
    return jax.tree.map(lambda a: a.astype(np.float32), (x, tuple(kernels), tuple(biases)))


def definition(x, kernels, biases):
    x = x.astype(np.float64) + biases[0]
    for kernel, bias in zip(kernels, biases[1:], strict=True):
        x = np.sin(FREQUENCY * x) @ kernel + bias
    return x


def relative_l2(value, reference):
    return np.linalg.norm(np.asarray(value, np.float64) - reference) / np.linalg.norm(reference)


def test_float32_equals_definition():
    x, kernels, biases = network((8, 8, 16, 3))
    got = sine_mlp(x, kernels, biases, frequency=FREQUENCY)
    assert got.shape == (3, 37, 3) and got.dtype == jnp.float32
    assert relative_l2(got, definition(x, kernels, biases)) < 1e-5


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.bfloat16, 5e-3), (jnp.float16, 7e-4)])
@pytest.mark.parametrize("widths", [(64, 64, 256, 4), (64, 64, 256, 64), (64, 64, 256, 256, 3)])
def test_triton_kernel_equals_definition_to_16_bits(widths, dtype, limit):
    x, kernels, biases = network(widths)  # 111 points: the last block is not full
    got = sine_mlp_triton.run(x, kernels, biases, FREQUENCY, dtype, interpret=True)
    assert got.shape == (3, 37, widths[-1])
    assert relative_l2(got, definition(x, kernels, biases)) < limit
    xla = sine_mlp(x, kernels, biases, frequency=FREQUENCY, dtype=dtype)
    assert relative_l2(got, np.asarray(xla, np.float64)) < 1e-3


def network_with_inputs(widths=(64, 64, 256, 4), channels=(64, 16), points=(3, 37)):
    """Returns (x, inputs, kernels, biases) and the complete first sum in float64."""
    x, kernels, biases = network(widths, points)
    rng = np.random.default_rng(5)
    inputs = tuple(
        (rng.standard_normal((*points, c)).astype(np.float32), rng.uniform(-0.02, 0.02, (c, widths[0])))
        for c in channels
    )
    inputs = jax.tree.map(lambda a: a.astype(np.float32), inputs)
    return (x, inputs, kernels, biases), x + sum(y.astype(np.float64) @ rows for y, rows in inputs)


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 2e-5), (jnp.bfloat16, 1e-2)])
def test_inputs_are_multiplied_and_added_first(dtype, limit):
    (x, inputs, kernels, biases), total = network_with_inputs()
    got = sine_mlp(x, kernels, biases, frequency=FREQUENCY, inputs=inputs, dtype=dtype)
    want = definition(total, kernels, biases)
    assert relative_l2(got, want) < limit
    if dtype != jnp.float32:
        triton = sine_mlp_triton.run(x, kernels, biases, FREQUENCY, dtype, inputs=inputs, interpret=True)
        assert triton.shape == got.shape and relative_l2(triton, want) < limit
        assert relative_l2(triton, np.asarray(got, np.float64)) < 1e-3


def test_gradient_by_inputs_equals_that_of_the_complete_sum():
    (x, inputs, kernels, biases), _ = network_with_inputs()
    cotangent = np.random.default_rng(1).standard_normal((3, 37, 4)).astype(np.float32)

    def by_inputs(x, inputs):
        return sine_mlp(x, kernels, biases, frequency=FREQUENCY, inputs=inputs)

    def by_sum(x, inputs):
        return sine_mlp(x + sum(y @ rows for y, rows in inputs), kernels, biases, frequency=FREQUENCY)

    got, want = (
        jax.jit(lambda *a, f=f: jax.vjp(f, *a)[1](cotangent))(x, inputs) for f in (by_inputs, by_sum)
    )
    for value, reference in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert relative_l2(value, np.asarray(reference, np.float64)) < 1e-4


def test_result_of_another_dtype_is_the_same_rounded():
    x, kernels, biases = network((64, 64, 256, 64))
    options = dict(frequency=FREQUENCY, dtype=jnp.bfloat16)
    want = sine_mlp(x, kernels, biases, **options)
    got = sine_mlp(x, kernels, biases, out_dtype=jnp.bfloat16, **options)
    assert got.dtype == jnp.bfloat16 and jnp.array_equal(got, want.astype(jnp.bfloat16))
    in_full, rounded = (
        sine_mlp_triton.run(x, kernels, biases, FREQUENCY, jnp.bfloat16, out_dtype, interpret=True)
        for out_dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.bfloat16 and jnp.array_equal(rounded, in_full.astype(jnp.bfloat16))


@pytest.mark.parametrize("widths", [(64, 64, 256, 4), (64, 64, 256, 256, 3)])
def test_triton_gradient_equals_that_of_the_definition_in_float32(widths):
    x, kernels, biases = network(widths)  # 111 points: the last block is not full
    cotangent = np.random.default_rng(1).standard_normal((3, 37, widths[-1])).astype(np.float32)

    def run(*operands):
        return sine_mlp(*operands, frequency=FREQUENCY)

    want = jax.jit(lambda *operands: jax.vjp(run, *operands)[1](cotangent))(x, kernels, biases)
    options = dict(frequency=FREQUENCY, dtype=jnp.float16, interpret=True)
    got = sine_mlp_triton.run_backward(x, kernels, biases, cotangent, **options)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, want)
    for value, reference in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert relative_l2(value, np.asarray(reference, np.float64)) < 3e-3


def test_gradient_of_larger_than_32_bit_arrays_is_left_to_xla():
    _, kernels, _ = network((64, 64, 256, 4))

    def supported(points):
        return sine_mlp_triton.is_backward_supported(jax.ShapeDtypeStruct((points, 64), jnp.float32), kernels)

    assert supported(2**23 - 1) and not supported(2**23)


def test_triton_kernel_lowers_for_cuda_and_has_a_gradient():
    operands, _ = network_with_inputs((64, 64, 256, 256, 3))

    def loss(x, inputs, kernels, biases):
        options = dict(frequency=FREQUENCY, dtype=jnp.bfloat16, implementation="pallas_triton")
        out = sine_mlp(x, kernels, biases, inputs=inputs, **options)
        return jnp.sum(out**2)

    device = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="cuda")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).trace(*operands)
        lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "triton" in lowered.lower()


def test_wrong_requests_are_named():
    x, kernels, biases = network((8, 8, 16, 3))
    with pytest.raises(ValueError, match="'fast' is not one of"):
        sine_mlp(x, kernels, biases, frequency=FREQUENCY, implementation="fast")
    with pytest.raises(ValueError, match="do not chain"):
        sine_mlp(x, kernels[1:], biases, frequency=FREQUENCY)
    with pytest.raises(ValueError, match="do not chain"):
        sine_mlp(x, kernels, biases, frequency=FREQUENCY, inputs=[(x, np.zeros((7, 8), np.float32))])
    with pytest.raises(NotImplementedError, match="float32 products"):
        sine_mlp(x, kernels, biases, frequency=FREQUENCY, implementation="pallas_triton")
    with pytest.raises(NotImplementedError, match=r"widths \[8, 8, 16, 3\]"):
        sine_mlp(x, kernels, biases, frequency=FREQUENCY, dtype=jnp.bfloat16, implementation="pallas_triton")
