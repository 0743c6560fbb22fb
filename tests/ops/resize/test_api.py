"""Resizing on fixed grids: the bicubic twin in numpy, and loops for the bilinear doubling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import bicubic
from stvsr_jax.ops.resize import triton as resize_triton
from stvsr_jax.ops.resize.api import _upsample_by_kernel, imresize, upsample_bilinear_2x


def uniform(seed, *shape):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def naive_upsample_2x(x):
    """Returns float64 [B, 2H, 2W, C]: output i reads (i + 0.5) / 2 - 0.5, indices clamped to the image."""
    x = np.asarray(x, np.float64)
    batch, height, width, channels = x.shape
    out = np.zeros((batch, 2 * height, 2 * width, channels))
    for i, j in np.ndindex(2 * height, 2 * width):
        y, z = (i + 0.5) / 2 - 0.5, (j + 0.5) / 2 - 0.5
        row, column = int(np.floor(y)), int(np.floor(z))
        for r, c in ((row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)):
            weight = (1 - abs(y - r)) * (1 - abs(z - c))
            out[:, i, j] += weight * x[:, np.clip(r, 0, height - 1), np.clip(c, 0, width - 1)]
    return out


RESIZES = {
    "down 1/4": ((16, 20), dict(scale=0.25)),
    "down 1/8, odd size": ((17, 23), dict(scale=1 / 8)),
    "up 2": ((5, 7), dict(scale=2)),
    "up 2.5": ((6, 5), dict(scale=2.5)),
    "down non-integer": ((13, 19), dict(scale=0.37)),
    "each axis its own": ((9, 11), dict(scale=(0.5, 3.0))),
    "to a size": ((11, 9), dict(out_size=(4, 21))),
    "scale and size": ((11, 9), dict(scale=0.6, out_size=(5, 5))),
    "one pixel": ((1, 1), dict(scale=3)),
}


@pytest.mark.parametrize("case", RESIZES)
def test_imresize_equals_numpy_twin(case):
    size, kwargs = RESIZES[case]
    image = uniform(0, 2, *size, 3)
    want = bicubic.imresize(image.astype(np.float64), **kwargs)
    got = imresize(image, **kwargs)
    assert got.shape == want.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_imresize_under_jit_keeps_leading_axes():
    image = uniform(0, 2, 3, 9, 8, 3)
    got = jax.jit(lambda x: imresize(x, scale=0.5))(image)
    assert got.shape == (2, 3, 5, 4, 3)
    np.testing.assert_allclose(got, bicubic.imresize(image, scale=0.5), atol=2e-6)
    np.testing.assert_allclose(got[1, 2], imresize(image[1, 2], scale=0.5), atol=1e-6)


def test_imresize_gradient_is_the_transposed_resize():
    image, factors = uniform(0, 6, 5, 2), uniform(1, 3, 8, 2)
    gradient = jax.grad(lambda x: jnp.sum(factors * imresize(x, out_size=(3, 8))))(image)
    want = np.zeros(image.shape)
    for index in np.ndindex(*image.shape):  # linear: one pixel at a time
        pixel = np.zeros(image.shape)
        pixel[index] = 1
        want[index] = np.sum(factors * bicubic.imresize(pixel, out_size=(3, 8)))
    np.testing.assert_allclose(gradient, want, atol=2e-6)


def test_imresize_of_bfloat16_is_computed_in_float32():
    image = jnp.asarray(uniform(0, 1, 12, 10, 3), jnp.bfloat16)
    got = imresize(image, scale=0.5)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, bicubic.imresize(np.asarray(image, np.float32), scale=0.5), atol=2e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(), "neither"),
        (dict(scale=0.0), "scale|size"),
        (dict(scale=-1.0), "scale|size"),
        (dict(scale=-1.0, out_size=(2, 2)), "scale=-1.0"),
        (dict(scale=np.nan, out_size=(2, 2)), "scale=nan"),
        (dict(out_size=(0, 4)), "out_size=0"),
    ],
)
def test_imresize_names_a_wrong_scale_or_size(kwargs, message):
    with pytest.raises(ValueError, match=message):
        imresize(jnp.zeros((1, 4, 4, 3)), **kwargs)


def test_imresize_names_the_shape_of_an_image_without_channels():
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        imresize(jnp.zeros((4, 4)), scale=2)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1), (1, 4), (3, 2)])
def test_upsample_equals_clamped_loop(size):
    x = uniform(0, 2, *size, 3)
    got = upsample_bilinear_2x(x)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, naive_upsample_2x(x), atol=1e-6)


def test_upsample_literal_row():
    got = upsample_bilinear_2x(jnp.array([0.0, 4.0, 8.0]).reshape(1, 1, 3, 1))
    np.testing.assert_array_equal(got[0, 1, :, 0], [0, 1, 3, 5, 7, 8])


def test_upsample_gradient_equals_transposed_loop():
    x, factors = uniform(0, 1, 3, 4, 1), uniform(1, 1, 6, 8, 1)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(factors * upsample_bilinear_2x(x))))(x)
    want = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        pixel = np.zeros(x.shape)
        pixel[index] = 1
        want[index] = np.sum(factors * naive_upsample_2x(pixel))
    np.testing.assert_allclose(gradient, want, atol=1e-6)


def test_upsample_of_bfloat16_is_close_and_bfloat16():
    x = jnp.asarray(uniform(0, 1, 5, 7, 2), jnp.bfloat16)
    got = upsample_bilinear_2x(x)
    assert got.dtype == jnp.bfloat16
    want = naive_upsample_2x(np.asarray(x, np.float32))
    np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=1e-2)


@pytest.mark.parametrize("shape", [(2, 3, 5, 64), (3, 1, 1, 8), (1, 9, 7, 16)])
def test_kernels_of_the_doubling_equal_its_definition(shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.bfloat16)
    cotangent = np.random.default_rng(1).standard_normal((shape[0], 2 * shape[1], 2 * shape[2], shape[3]))
    cotangent = jnp.asarray(cotangent, jnp.bfloat16)
    got, vjp = jax.vjp(lambda x: _upsample_by_kernel(x, 2.0, True), x)
    # The definition in float32; the kernels round once.
    want, wanted = jax.vjp(lambda x: upsample_bilinear_2x(x, 2.0), x.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8, atol=1e-6)
    gradient = vjp(cotangent)[0].astype(jnp.float32)
    np.testing.assert_allclose(gradient, wanted(cotangent.astype(jnp.float32))[0], rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "supported"),
    [
        ((1, 4, 4, 64), jnp.bfloat16, True),
        ((1, 4, 4, 64), jnp.float32, False),
        ((1, 4, 4, 48), jnp.bfloat16, False),
        ((64, 1024, 1024, 64), jnp.bfloat16, False),
    ],
)
def test_kernels_of_the_doubling_say_what_they_can_run(shape, dtype, supported):
    assert resize_triton.is_supported(jax.ShapeDtypeStruct(shape, dtype)) == supported
