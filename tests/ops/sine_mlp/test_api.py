"""The SIREN MLP: every implementation against numpy in float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from stvsr_jax.ops import Samples, sine_mlp
from stvsr_jax.ops.sampling import values_of
from stvsr_jax.ops.sine_mlp import triton as sine_mlp_triton
from stvsr_jax.ops.sine_mlp.inputs import Inputs

FREQUENCY = 30.0
needs_mosaic = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="the kernel is written for Mosaic GPU of jax 0.11 and later"
)
HOPPER = pytest.param("NVIDIA H100 80GB HBM3", "mosaic_gpu", marks=needs_mosaic)
# Numbers of points. The last block is not full; with the latter a warpgroup has more than one block.
SIZES = {"triton": (3, 37), "mosaic": (6, 37)}
BACK_ENDS = ["triton", pytest.param("mosaic", marks=needs_mosaic)]


def interpreted(back_end):
    """Returns the functions `run` and `run_backward` of a GPU's back end, interpreted."""
    if back_end == "triton":
        module, options = sine_mlp_triton, dict(interpret=True)
    else:
        from jax.experimental.pallas import mosaic_gpu

        from stvsr_jax.ops.sine_mlp import mosaic as module

        # So few SMs that a warpgroup takes several blocks of points.
        options = dict(sms=1, interpret=mosaic_gpu.InterpretGPUParams())
    return tuple(functools.partial(f, **options) for f in (module.run, module.run_backward))


def run_kernel(back_end, x, inputs, kernels, biases, dtype, out_dtype=jnp.float32):
    """Returns what the forward kernel of a back end makes."""
    terms = x if isinstance(x, tuple) else (x,)
    run, _ = interpreted(back_end)
    return run(Inputs.of(terms, inputs, biases[0], dtype), kernels, biases, FREQUENCY, dtype, out_dtype)


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
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_kernel_equals_definition_to_16_bits(back_end, widths, dtype, limit):
    x, kernels, biases = network(widths, SIZES[back_end])
    got = run_kernel(back_end, x, (), kernels, biases, dtype)
    assert got.shape == (*SIZES[back_end], widths[-1])
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
    assert relative_l2(got, definition(total, kernels, biases)) < limit


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_kernel_multiplies_and_adds_inputs_first(back_end):
    channels = {"triton": (64, 16), "mosaic": (64, 64, 2)}[back_end]
    (x, inputs, kernels, biases), total = network_with_inputs(channels=channels)
    options = dict(inputs=inputs, frequency=FREQUENCY, dtype=jnp.bfloat16)
    xla = np.asarray(sine_mlp(x, kernels, biases, **options), np.float64)
    got = run_kernel(back_end, x, inputs, kernels, biases, jnp.bfloat16)
    assert got.shape == xla.shape and relative_l2(got, definition(total, kernels, biases)) < 1e-2
    assert relative_l2(got, xla) < 1e-3


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


def sampled_network(dtype, channels=16):
    """Returns (x, inputs, kernels, biases) of 2 x 3 x 37 points, samples, whole and broadcast arrays among x and y.

    Some of y have that many channels.
    """
    _, kernels, biases = network((64, 64, 256, 4))
    rng = np.random.default_rng(7)

    def normal(*shape):
        return jnp.asarray(0.3 * rng.standard_normal(shape), jnp.float32)

    def bilinear(image):
        # Some beyond the border.
        return Samples.bilinear(image, jnp.asarray(rng.uniform(-2, 9, (len(image), 3, 37, 2)), jnp.float32))

    table = normal(5, 64)
    index = jnp.asarray(rng.integers(0, 5, (1, 3, 37)), jnp.int32)
    single = Samples(table[index[0]], table, index, jnp.ones((1, 3, 37)))
    x = (bilinear(normal(2, 6, 8, 64)), single, bilinear(normal(2, 4, 9, 64)), normal(2, 1, 1, 64))
    ys = (bilinear(normal(2, 8, 7, 64).astype(dtype)), normal(1, 3, 37, 2), normal(2, 1, 1, 1))
    ys = (*ys, bilinear(normal(2, 3, 5, channels).astype(dtype)), normal(2, 3, 37, channels))
    inputs = tuple(
        (y, 0.1 * normal(y.values.shape[-1] if isinstance(y, Samples) else y.shape[-1], 64)) for y in ys
    )
    return x, inputs, kernels, biases


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_kernel_reads_samples_from_their_tables(back_end, dtype):
    x, inputs, kernels, biases = sampled_network(dtype, {"triton": 16, "mosaic": 64}[back_end])
    options = dict(frequency=FREQUENCY, dtype=dtype)
    want = sine_mlp(x, kernels, biases, inputs=inputs, **options)
    assert want.shape == (2, 3, 37, 4)
    plain_x, plain_inputs = values_of((x, inputs))
    total = sum(np.asarray(a, np.float64) for a in plain_x) + sum(
        np.asarray(y, np.float64) @ np.asarray(rows) for y, rows in plain_inputs
    )
    assert relative_l2(want, definition(total, kernels, biases)) < 2e-2
    # The kernel must not need the values.
    x, inputs = jax.tree.map(
        lambda a: (
            Samples(jnp.full_like(a.values, np.nan), a.table, a.index, a.weight)
            if isinstance(a, Samples)
            else a
        ),
        (x, inputs),
        is_leaf=lambda a: isinstance(a, Samples),
    )
    got = run_kernel(back_end, x, inputs, kernels, biases, dtype)
    assert got.shape == want.shape
    assert relative_l2(got, np.asarray(want, np.float64)) < 2e-3


def test_gradient_by_samples_equals_that_by_their_values(monkeypatch):
    for name in ("run", "run_backward"):
        function = functools.partial(getattr(sine_mlp_triton, name), interpret=True)
        monkeypatch.setattr(sine_mlp_triton, name, function)
    _, kernels, biases = network((64, 64, 256, 4))
    rng = np.random.default_rng(8)
    image, flat = (rng.standard_normal((1, 6, 8, 64)).astype(np.float32) for _ in range(2))
    coords = rng.uniform(-1, 8, (1, 3, 37, 2)).astype(np.float32)
    rows, time = (0.1 * rng.standard_normal((n, 64)).astype(np.float32) for n in (64, 1))
    cotangent = rng.standard_normal((1, 3, 37, 4)).astype(np.float32)

    def run(prepare, implementation, image, flat, coords, rows, time, kernels, biases):
        x, y = prepare((Samples.bilinear(0.3 * image, coords), Samples.bilinear(flat, coords[..., ::-1])))
        inputs = [(jnp.full((1, 1, 1, 1), 0.5), time), (y, rows)]
        options = dict(frequency=FREQUENCY, inputs=inputs, dtype=jnp.float16, implementation=implementation)
        return sine_mlp(x, kernels, biases, **options)

    operands = image, flat, coords, rows, time, kernels, biases
    got, want, plain = (
        jax.jit(lambda *a, case=case: jax.vjp(functools.partial(run, *case), *a)[1](cotangent))(*operands)
        for case in ((lambda a: a, "pallas_triton"), (values_of, "pallas_triton"), (lambda a: a, "xla"))
    )
    for value, reference, of_xla in zip(*map(jax.tree.leaves, (got, want, plain)), strict=True):
        assert np.linalg.norm(reference) > 0
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-6 * np.abs(reference).max())
        assert relative_l2(value, np.asarray(of_xla, np.float64)) < 2e-2


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_result_of_another_dtype_is_the_same_rounded(back_end):
    x, kernels, biases = network((64, 64, 256, 64))
    options = dict(frequency=FREQUENCY, dtype=jnp.bfloat16)
    want = sine_mlp(x, kernels, biases, **options)
    got = sine_mlp(x, kernels, biases, out_dtype=jnp.bfloat16, **options)
    assert got.dtype == jnp.bfloat16 and jnp.array_equal(got, want.astype(jnp.bfloat16))
    in_full, rounded = (
        run_kernel(back_end, x, (), kernels, biases, jnp.bfloat16, out_dtype)
        for out_dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rounded.dtype == jnp.bfloat16 and jnp.array_equal(rounded, in_full.astype(jnp.bfloat16))


@pytest.mark.parametrize("widths", [(64, 64, 256, 4), (64, 64, 256, 64), (64, 64, 256, 256, 3)])
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_gradient_of_kernel_equals_that_of_the_definition_in_float32(back_end, widths):
    x, kernels, biases = network(widths, SIZES[back_end])
    shape = (*SIZES[back_end], widths[-1])
    cotangent = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    def run(*operands):
        return sine_mlp(*operands, frequency=FREQUENCY)

    want = jax.jit(lambda *operands: jax.vjp(run, *operands)[1](cotangent))(x, kernels, biases)
    _, run_backward = interpreted(back_end)
    got = run_backward(x, kernels, biases, cotangent, FREQUENCY, jnp.float16)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, want)
    for value, reference in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert relative_l2(value, np.asarray(reference, np.float64)) < 3e-3


def test_gradient_of_larger_than_32_bit_arrays_is_left_to_xla():
    _, kernels, _ = network((64, 64, 256, 4))

    def supported(points):
        return sine_mlp_triton.is_backward_supported(jax.ShapeDtypeStruct((points, 64), jnp.float32), kernels)

    assert supported(2**23 - 1) and not supported(2**23)


@pytest.mark.parametrize(("device", "call"), [("NVIDIA A100", "triton"), HOPPER])
def test_kernel_lowers_for_cuda_and_has_a_gradient(device, call):
    operands, _ = network_with_inputs((64, 64, 256, 256, 3), channels=(64,))

    def run(x, inputs, kernels, biases):
        return sine_mlp(x, kernels, biases, inputs=inputs, frequency=FREQUENCY, dtype=jnp.bfloat16)

    def loss(*operands):
        return jnp.sum(run(*operands) ** 2)

    device = AbstractDevice(device_kind=device, num_cores=132, platform="cuda")
    mesh = jax.sharding.AbstractMesh((1,), ("device",), (jax.sharding.AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).trace(*operands)
        of_samples = jax.jit(run).trace(*sampled_network(jnp.bfloat16, channels=64))
        for traced, kernels in ((gradient, 2), (of_samples, 1)):
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
            assert len(re.findall(f"custom_call @\\S*{call}", text)) == kernels


def test_wrong_requests_are_named():
    x, kernels, biases = network((8, 8, 16, 3))
    with pytest.raises(ValueError, match="'fast' is not one of"):
        sine_mlp(x, kernels, biases, frequency=FREQUENCY, implementation="fast")
    with pytest.raises(ValueError, match="do not chain"):
        sine_mlp(x, kernels[1:], biases, frequency=FREQUENCY)
    for y in (x, x[..., :7][:, 1:]):
        with pytest.raises(ValueError, match="do not chain"):
            sine_mlp(x, kernels, biases, frequency=FREQUENCY, inputs=[(y, np.zeros((7, 8), np.float32))])
    with pytest.raises(NotImplementedError, match="float32 products"):
        sine_mlp(x, kernels, biases, frequency=FREQUENCY, implementation="pallas_triton")
    with pytest.raises(NotImplementedError, match=r"widths \[8, 8, 16, 3\]"):
        sine_mlp(x, kernels, biases, frequency=FREQUENCY, dtype=jnp.bfloat16, implementation="pallas_triton")
    with pytest.raises(NotImplementedError, match="on one NVIDIA Hopper GPU"):
        sine_mlp(x, kernels, biases, frequency=FREQUENCY, dtype=jnp.bfloat16, implementation="pallas_mosaic")
