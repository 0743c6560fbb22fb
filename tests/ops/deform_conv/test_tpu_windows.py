"""The TPU's deformable convolution equals the definition at every displacement: value and gradients, interpreted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import ops
from stvsr_jax.ops.deform_conv import tpu_windows
from stvsr_jax.ops.lanes import from_lanes, to_lanes

SHAPE = (2, 5, 7)
RNG = np.random.default_rng(0)
X, KERNEL, COTANGENT = (
    jnp.asarray(RNG.normal(size=s), jnp.float32) for s in [(*SHAPE, 64), (576, 64), (*SHAPE, 64)]
)


@jax.jit
def definition(*operands):
    def convolve(x, head, kernel):
        return ops.deform_columns(x, head, groups=8, implementation="gather") @ kernel

    y, vjp = jax.vjp(convolve, *operands)
    return y, *vjp(COTANGENT)


@pytest.fixture(scope="module")
def kernels():
    @jax.jit
    def run(x, head, kernel):
        lanes = to_lanes(x), to_lanes(head), kernel
        y = tpu_windows.run(SHAPE[1:], *lanes, interpret=True)
        d_x, d_head, d_kernel = tpu_windows.run_backward(
            SHAPE[1:], *lanes, to_lanes(COTANGENT), interpret=True
        )
        return *(from_lanes(a, SHAPE) for a in (y, d_x, d_head)), d_kernel

    options = {"xla_backend_optimization_level": "0"}  # else it compiles for a minute
    return run.lower(X, draw_head(1.0), KERNEL).compile(compiler_options=options)


def draw_head(largest, *, integer=False):
    head = np.random.default_rng(1).uniform(-largest, largest, (*SHAPE, 9, 3, 8))
    head[..., 2, :] = np.clip(head[..., 2, :], -2, 2)
    return jnp.asarray(np.round(head) if integer else head, jnp.float32).reshape(*SHAPE, 216)


@pytest.mark.parametrize(
    "head",
    [draw_head(1.99), draw_head(1.0, integer=True), draw_head(4.0, integer=True), draw_head(30.0)],
    ids=["one window", "integers", "integers in several windows", "outside of the image"],
)
def test_values_and_gradients_equal_the_definition(kernels, head):
    for found, want in zip(kernels(X, head, KERNEL), definition(X, head, KERNEL), strict=True):
        np.testing.assert_allclose(found, want, rtol=2e-4, atol=2e-4)


def test_windows_are_as_many_as_the_largest_displacement_needs():
    def count(y, x):
        head = np.zeros((216, 10), np.float32).reshape(9, 3, 8, 10)
        head[4, 0, 3, 2], head[0, 1, 0, 9], head[:, 2] = y, x, 1e9
        return tpu_windows.count_windows(jnp.asarray(head.reshape(216, 10)), (90, 40)).tolist()

    assert count(0, 0) == count(1.99, -1.99) == [0, 0]
    assert count(2.0, 6.99) == [1, 1]  # the slope at 2 reads the pixel at 3
    assert count(-7.0, 0.5) == [2, 0]
    assert count(np.nan, np.inf) == count(0, 1e30) == [0, 18]  # 92 pixels: beyond them is nothing


def test_a_displacement_that_is_no_number_is_seen(kernels):
    head = draw_head(1.0).at[0, 2, 2, 0].set(jnp.nan)
    assert not np.isfinite(kernels(X, head, KERNEL)[0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_pixel_that_is_not_finite_reaches_three_rows_and_columns_and_no_farther(kernels, bad):
    _, height, width = SHAPE
    image, row, column = 0, 4, 2
    head = draw_head(1.9)
    x = X.at[image, row, column, 5].set(bad)
    found, want = (np.asarray(f(x, head, KERNEL)[0]).reshape(-1, 64) for f in (kernels, definition))
    pixel = (image * height + row) * width + column
    # Pixels are counted row by row through all images: the window goes over the end of a row, and into another image.
    near = {pixel + y * width + x for y in range(-3, 4) for x in range(-3, 4)} & set(range(len(want)))
    is_near = np.isin(np.arange(len(want)), list(near))
    assert np.isfinite(found[~is_near]).all() and not np.isfinite(found[is_near]).any()
    np.testing.assert_allclose(found[~is_near], want[~is_near], rtol=2e-4, atol=2e-4)
    assert 0 < np.isfinite(want[is_near]).mean() < 1  # by the definition only some of them


def test_what_is_not_supported_is_said():
    x, head, kernel = (jnp.zeros(s, jnp.bfloat16) for s in [(1, 4, 4, 64), (1, 4, 4, 216), (576, 64)])
    assert tpu_windows.is_supported(x, head, kernel)
    assert not tpu_windows.is_supported(x[..., :32], head, kernel)
    assert not tpu_windows.is_supported(x, head[..., :54], kernel)
    assert not tpu_windows.is_supported(x.astype(jnp.float16), head, kernel)
