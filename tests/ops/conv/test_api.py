"""The plain convolution: values against loops, its written-out derivative against that of the primitive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops.conv import conv2d, conv2d_deferred, conv2d_kernel_gradient
from stvsr_jax.ops.shuffle import pixel_shuffle

# (size, kernel size, stride, padding); the last windows of some do not reach the end of the image.
GEOMETRIES = [
    ((6, 8), (3, 3), 1, 1),
    ((6, 8), (3, 3), 2, 1),
    ((5, 7), (3, 3), 2, 1),
    ((8, 9), (3, 2), 3, 0),
    ((5, 7), (1, 1), 1, 0),
    ((7, 6), (1, 1), 2, 0),
    ((4, 4), (3, 3), 1, 3),
    ((1, 1), (3, 3), 2, 1),
]


def example(size, kernel_size, dtype=np.float32):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, *size, 3)), rng.standard_normal((*kernel_size, 3, 4))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def naive_conv(x, kernel, stride, padding):
    """Returns float64 [B, H', W', C'], a product for each window that fits."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    height, width = kernel.shape[:2]
    rows = range(0, x.shape[1] - height + 1, stride)
    columns = range(0, x.shape[2] - width + 1, stride)
    out = np.zeros((x.shape[0], len(rows), len(columns), kernel.shape[-1]))
    for i, y in enumerate(rows):
        for j, z in enumerate(columns):
            out[:, i, j] = np.einsum("bhwc,hwco->bo", x[:, y : y + height, z : z + width], kernel)
    return out


def gradients_of_primitive(x, kernel, cotangent, stride, padding):
    def primitive(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        pads = ((padding, padding), (padding, padding))
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=layout)

    return jax.vjp(primitive, x, kernel)[1](cotangent)


@pytest.mark.parametrize(("size", "kernel_size", "stride", "padding"), GEOMETRIES)
def test_conv_and_its_gradients_equal_loops_and_the_primitive(size, kernel_size, stride, padding):
    x, kernel = example(size, kernel_size)
    want = naive_conv(x, kernel, stride, padding)
    cotangent = np.random.default_rng(1).standard_normal(want.shape).astype(np.float32)

    @jax.jit
    def value_and_gradients(x, kernel):
        out, vjp = jax.vjp(functools.partial(conv2d, stride=stride, padding=padding), x, kernel)
        return out, vjp(cotangent), gradients_of_primitive(x, kernel, cotangent, stride, padding)

    out, gradients, wanted = value_and_gradients(x, kernel)
    np.testing.assert_allclose(out, want, atol=1e-5)
    for got, reference in zip(gradients, wanted, strict=True):
        assert got.shape == reference.shape and got.dtype == reference.dtype
        np.testing.assert_allclose(got, reference, atol=2e-5)


def test_gradients_equal_central_differences():
    x, kernel = example((5, 4), (3, 3))
    factors = np.random.default_rng(1).standard_normal((2, 3, 2, 4))
    loss = jax.jit(jax.grad(lambda x, kernel: jnp.sum(factors * conv2d(x, kernel, 2, 1)), (0, 1)))
    for argument, gradient in enumerate(loss(x, kernel)):
        arrays = [np.asarray(x, np.float64), np.asarray(kernel, np.float64)]
        want = np.zeros(gradient.shape)
        for index in np.ndindex(*gradient.shape):  # linear in each: one entry at a time
            arrays[argument] = np.zeros(gradient.shape)
            arrays[argument][index] = 1
            want[index] = np.sum(factors * naive_conv(*arrays, 2, 1))
        np.testing.assert_allclose(gradient, want, atol=1e-5)


def test_gradient_inside_a_scan_equals_an_unrolled_loop():
    x, kernel = example((5, 6), (3, 3))
    kernel = 0.2 * kernel[..., :3]

    def scanned(x, kernel):
        return jnp.sum(jax.lax.scan(lambda x, _: (jnp.tanh(conv2d(x, kernel)), None), x, length=3)[0] ** 2)

    def unrolled(x, kernel):
        for _ in range(3):
            x = jnp.tanh(conv2d(x, kernel))
        return jnp.sum(x**2)

    got, want = (jax.jit(jax.grad(f, (0, 1)))(x, kernel) for f in (scanned, unrolled))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_values_and_gradients_are_close_to_float32():
    x, kernel = example((6, 7), (3, 3), jnp.bfloat16)
    gradients = jax.jit(jax.grad(lambda x, k: jnp.sum(conv2d(x, k, 2, 1).astype(jnp.float32)), (0, 1)))(
        x, kernel
    )
    out = conv2d(x, kernel, 2, 1)
    assert {out.dtype, *(g.dtype for g in gradients)} == {jnp.dtype(jnp.bfloat16)}
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    want = naive_conv(x, kernel, 2, 1)
    assert np.linalg.norm(np.asarray(out, np.float64) - want) < 0.01 * np.linalg.norm(want)
    for got, reference in zip(
        gradients, gradients_of_primitive(x, kernel, jnp.ones(want.shape), 2, 1), strict=True
    ):
        error = np.linalg.norm(np.asarray(got, np.float64) - reference)
        assert error < 0.02 * np.linalg.norm(reference)


def concatenated_example(dtype=np.float32, kernel_size=(3, 3)):
    """Returns (two inputs of 3 and 5 channels, kernel [.., 8, 4], bias, addend)."""
    rng = np.random.default_rng(3)
    shapes = [(2, 5, 6, 3), (2, 5, 6, 5), (*kernel_size, 8, 4), (4,), (2, 5, 6, 4)]
    x1, x2, kernel, bias, addend = (jnp.asarray(rng.standard_normal(s), dtype) for s in shapes)
    return (x1, x2), kernel, bias, addend


@pytest.mark.parametrize("slope", [None, 0.0, 0.1])
@pytest.mark.parametrize("kernel_size", [(3, 3), (1, 1)])
def test_concatenated_inputs_bias_addend_and_relu_equal_their_definition(slope, kernel_size):
    inputs, kernel, bias, addend = concatenated_example(kernel_size=kernel_size)
    padding = kernel_size[0] // 2
    cotangent = np.random.default_rng(4).standard_normal(addend.shape).astype(np.float32)

    def definition(inputs, kernel, bias, addend):
        x = jnp.concatenate(inputs, axis=-1)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = y + bias + addend
        return y if slope is None else jnp.where(y > 0, y, slope * y)

    def tested(inputs, kernel, bias, addend):
        return conv2d(inputs, kernel, 1, padding, bias=bias, addend=addend, slope=slope)

    (out, gradients), (want, wanted) = (
        jax.jit(lambda *args, f=f: (f(*args), jax.vjp(f, *args)[1](cotangent)))(inputs, kernel, bias, addend)
        for f in (tested, definition)
    )
    x = np.concatenate(inputs, axis=-1)
    before = naive_conv(x, kernel, 1, padding) + np.asarray(bias) + np.asarray(addend)
    np.testing.assert_allclose(
        out, before if slope is None else np.maximum(before, slope * before), atol=2e-5
    )
    np.testing.assert_allclose(out, want, atol=2e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=5e-5), gradients, wanted)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "groups"), [(3, 1, (2, 4)), (1, 1, (4, 4)), (3, 2, (2, 1))]
)
def test_a_stack_equals_one_convolution_after_the_other(kernel_size, stride, groups):
    rng = np.random.default_rng(5)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    inputs = tuple(draw(g, 2, 6, 4, c) for g, c in zip(groups, (3, 5), strict=True))
    kernel, bias = draw(4, kernel_size, kernel_size, 8, 4), draw(4, 4)
    addend = draw(4, 2, 6 // stride, 4 // stride, 4)

    def one_after_the_other(inputs, kernel, bias, addend):
        return jnp.stack(
            [
                conv2d(tuple(x[s % len(x)] for x in inputs), kernel[s], stride, kernel_size // 2, **terms)
                for s, terms in enumerate(
                    dict(bias=bias[s], addend=addend[s], slope=0.1) for s in range(len(kernel))
                )
            ]
        )

    def stack(inputs, kernel, bias, addend):
        return conv2d(inputs, kernel, stride, kernel_size // 2, bias=bias, addend=addend, slope=0.1)

    got, want = (
        jax.jit(
            lambda *args, f=f: (f(*args), jax.grad(lambda *args: jnp.sum(f(*args) ** 2), (0, 1, 2, 3))(*args))
        )(inputs, kernel, bias, addend)
        for f in (stack, one_after_the_other)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, want)


def test_shuffled_result_and_its_gradients():
    x, kernel = example((5, 6), (3, 3))
    bias = jnp.arange(4.0)

    def shuffled(x, kernel, bias):
        return conv2d(x, kernel, bias=bias, slope=0.1, shuffle=2)

    def definition(x, kernel, bias):
        return pixel_shuffle(conv2d(x, kernel, bias=bias, slope=0.1), 2)

    got, want = (
        jax.jit(
            lambda *args, f=f: (f(*args), jax.grad(lambda *args: jnp.sum(f(*args) ** 3), (0, 1, 2))(*args))
        )(x, kernel, bias)
        for f in (shuffled, definition)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4), got, want)


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_leaky_relu_has_at_zero_its_negative_slope(slope):
    x = jnp.array([-2.0, 0.0, 3.0]).reshape(1, 1, 3, 1)
    out, vjp = jax.vjp(lambda x: conv2d(x, jnp.ones((1, 1, 1, 1)), 1, 0, slope=slope), x)
    np.testing.assert_allclose(out.ravel(), [-2 * slope, 0, 3], atol=1e-7)
    np.testing.assert_allclose(vjp(jnp.ones_like(x))[0].ravel(), [slope, slope, 1], atol=1e-7)


def test_probe_is_not_read_and_gets_the_gradient_before_the_relu():
    inputs, kernel, bias, addend = concatenated_example()

    def loss(addend, probe):
        out = conv2d_deferred(inputs, kernel, 1, 1, probe=probe, bias=bias, addend=addend, slope=0.1)
        return jnp.sum(jnp.sin(out)), out

    probe = jnp.full(addend.shape, jnp.nan)
    (of_addend, of_probe), out = jax.grad(loss, (0, 1), has_aux=True)(addend, probe)
    np.testing.assert_array_equal(of_addend, of_probe)
    np.testing.assert_array_equal(out, conv2d(inputs, kernel, bias=bias, addend=addend, slope=0.1))
    assert np.abs(np.asarray(of_probe)).max() > 0.1


def test_the_probes_gradient_gives_the_kernels():
    inputs, kernel, bias, addend = concatenated_example()

    def loss(kernel, probe=None):
        if probe is None:
            return jnp.sum(jnp.sin(conv2d(inputs, kernel, bias=bias, addend=addend, slope=0.1)))
        deferred = conv2d_deferred(inputs, kernel, 1, 1, probe=probe, bias=bias, addend=addend, slope=0.1)
        return jnp.sum(jnp.sin(deferred))

    of_probe = jax.grad(loss, 1)(kernel, jnp.zeros(addend.shape))
    got = conv2d_kernel_gradient(tuple(x[None] for x in inputs), kernel, of_probe[None])
    np.testing.assert_allclose(got, jax.grad(loss)(kernel), rtol=1e-4, atol=1e-4)


def test_no_kernel_gradient_is_silently_zero():
    inputs, kernel, *_ = concatenated_example()
    with pytest.raises(NotImplementedError, match="conv2d_kernel_gradient"):
        jax.grad(lambda kernel: jnp.sum(conv2d_deferred(inputs, kernel, 1, 1, probe=None)))(kernel)
