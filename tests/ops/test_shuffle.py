"""Sub-pixel rearrangement against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops.shuffle import pixel_shuffle, pixel_unshuffle


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("factor", "shape"), [(1, (1, 2, 3, 4)), (2, (2, 3, 5, 12)), (3, (1, 1, 4, 18))])
def test_pixel_shuffle_equals_formula(factor, shape, dtype):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)
    batch, height, width, channels = shape
    want = np.zeros((batch, height * factor, width * factor, channels // factor**2), np.float32)
    for b, y, x_, c, i, j in np.ndindex(batch, height, width, want.shape[-1], factor, factor):
        want[b, factor * y + i, factor * x_ + j, c] = x[b, y, x_, c * factor**2 + factor * i + j]
    got = pixel_shuffle(x, factor)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.asarray(got, np.float32), want)


@pytest.mark.parametrize(("factor", "shape"), [(1, (1, 2, 3, 4)), (2, (2, 2, 3, 5, 12)), (3, (1, 1, 4, 18))])
def test_pixel_unshuffle_is_the_inverse(factor, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_array_equal(pixel_unshuffle(pixel_shuffle(x, factor), factor), x)


def test_pixel_shuffle_literal_order():
    got = pixel_shuffle(jnp.arange(8.0).reshape(1, 1, 1, 8), 2)
    np.testing.assert_array_equal(got[0, :, :, 0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(got[0, :, :, 1], [[4, 5], [6, 7]])


def test_pixel_shuffle_gradient_moves_each_value_back():
    x, factors = (np.random.default_rng(i).standard_normal((2, 36)).astype(np.float32) for i in (0, 1))
    x = x.reshape(2, 3, 3, 4)
    gradient = jax.grad(lambda x: jnp.sum(factors.reshape(2, 6, 6, 1) * pixel_shuffle(x, 2)))(x)
    np.testing.assert_array_equal(pixel_shuffle(gradient, 2), factors.reshape(2, 6, 6, 1))


@pytest.mark.parametrize(("channels", "factor"), [(6, 2), (3, 2), (4, 3), (4, 0), (4, -1)])
def test_pixel_shuffle_names_channels_that_do_not_divide(channels, factor):
    with pytest.raises(ValueError, match=rf"{channels} channels.*factor={factor}"):
        pixel_shuffle(jnp.zeros((1, 2, 2, channels)), factor)
