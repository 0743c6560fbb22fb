"""Sampling at real coordinates against loops written from the definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops.sampling import (
    Samples,
    bilinear_sample,
    grid_sample,
    interpolate_frames,
    nearest_sample,
    normalized_to_pixels,
    sample_groups,
    values_of,
)

# Compiled once per shape: operation by operation they take ten times as long.
bilinear = jax.jit(bilinear_sample)
nearest = jax.jit(nearest_sample)
sample_grid = jax.jit(grid_sample, static_argnames="mode")


@jax.jit
def bilinear_gradients(image, coords, factors):
    """Returns d / d (image, coords) of the sum of factors * samples."""
    return jax.grad(_weighted_sum, (0, 1))(image, coords, factors)


def _weighted_sum(image, coords, factors):
    return jnp.sum(factors * bilinear_sample(image, coords).astype(jnp.float32))


def naive_bilinear(image, coords):
    """Returns float64 [B, P, C] from [B, H, W, C] and [B, P, 2]: four corners, zero outside."""
    image, coords = np.asarray(image, np.float64), np.asarray(coords, np.float64)
    _, height, width, channels = image.shape
    out = np.zeros((*coords.shape[:2], channels))
    for b, p in np.ndindex(*coords.shape[:2]):
        y, x = coords[b, p]
        for row, column in itertools.product((np.floor(y), np.floor(y) + 1), (np.floor(x), np.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                out[b, p] += weight * image[b, int(row), int(column)]
    return out


def naive_nearest(image, coords):
    """Returns [B, P, C]: the pixel at the rounded coordinates, halves to even, zero outside."""
    image = np.asarray(image)
    _, height, width, channels = image.shape
    out = np.zeros((*coords.shape[:2], channels), image.dtype)
    for b, p in np.ndindex(*coords.shape[:2]):
        y, x = (round(float(c)) for c in coords[b, p])  # Python rounds halves to even
        if 0 <= y < height and 0 <= x < width:
            out[b, p] = image[b, y, x]
    return out


def naive_pytorch_grid(grid, size):
    """Returns (y, x) in pixels of PyTorch's normalised (x, y), align_corners=False."""
    height, width = size
    x, y = np.asarray(grid, np.float64)[..., 0], np.asarray(grid, np.float64)[..., 1]
    return np.stack([((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2], axis=-1)


def numeric_gradient(function, array, step):
    """Returns the central differences of a scalar function of a float64 array."""
    gradient = np.zeros(array.shape)
    for index in np.ndindex(*array.shape):
        moved = array.copy()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2 * step
        gradient[index] = (above - function(moved)) / (2 * step)
    return gradient


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def points_around(seed, batch, count, size):
    """Returns [batch, count, 2] coordinates inside the image and up to two pixels beyond its borders."""
    low, high = np.array([-2.0, -2.0]), np.array(size) + 1.0
    return np.random.default_rng(seed).uniform(low, high, (batch, count, 2)).astype(np.float32)


@pytest.mark.parametrize("size", [(5, 7), (4, 6), (1, 1), (1, 6), (3, 1)])
def test_bilinear_equals_loop_inside_and_beyond_borders(size):
    image, coords = normal(0, 3, *size, 2), points_around(1, 3, 60, size)
    got = bilinear(image, coords)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, naive_bilinear(image, coords), atol=2e-6)


def test_bilinear_reads_pixels_at_integers_and_half_of_them_half_a_pixel_outside():
    image = normal(0, 1, 3, 4, 2)
    integers = np.stack(np.meshgrid(np.arange(3.0), np.arange(4.0), indexing="ij"), axis=-1)[None]
    np.testing.assert_allclose(bilinear(image, integers), image, atol=1e-7)
    outside = np.array([[[-0.5, 1], [2.5, 1], [1, -0.5], [1, 3.5]]], np.float32)
    want = 0.5 * image[0, [0, 2, 1, 1], [1, 1, 0, 3]]
    np.testing.assert_allclose(bilinear(image, outside)[0], want, atol=1e-7)


def test_bilinear_is_zero_one_pixel_outside_and_farther():
    coords = [[-1, 1], [3, 1], [1, -1], [1, 4], [-1, -1], [-7, 2], [50, 2], [1, -1e4], [1e6, 1e6]]
    got = bilinear(normal(0, 1, 3, 4, 2), np.array([coords], np.float32))
    np.testing.assert_array_equal(got, np.zeros((1, 9, 2)))


def test_bilinear_keeps_extra_axes_of_coords():
    image, coords = normal(0, 2, 4, 5, 3), points_around(1, 2, 24, (4, 5))
    want = naive_bilinear(image, coords).reshape(2, 3, 1, 4, 2, 3)
    np.testing.assert_allclose(bilinear(image, coords.reshape(2, 3, 1, 4, 2, 2)), want, atol=2e-6)
    single = bilinear(image, coords[:, 0])  # no axis between the batch and the coordinates
    np.testing.assert_allclose(single, naive_bilinear(image, coords[:, :1])[:, 0], atol=2e-6)


def test_bilinear_gradients_equal_central_differences():
    size = (4, 3)
    rng = np.random.default_rng(0)
    image, factors = normal(1, 2, *size, 2), normal(2, 2, 20, 2)
    # Away from integers, where the function has a kink; inside and up to two pixels outside.
    cell = rng.integers([-2, -2], [size[0] + 1, size[1] + 1], (2, 20, 2))
    coords = (cell + rng.uniform(0.1, 0.9, cell.shape)).astype(np.float32)

    def naive(image, coords):
        return np.sum(factors * naive_bilinear(image, coords))

    d_image, d_coords = bilinear_gradients(image, coords, factors)
    image, coords = image.astype(np.float64), coords.astype(np.float64)
    np.testing.assert_allclose(d_image, numeric_gradient(lambda i: naive(i, coords), image, 0.5), atol=1e-5)
    np.testing.assert_allclose(d_coords, numeric_gradient(lambda c: naive(image, c), coords, 0.01), atol=1e-5)


def test_bilinear_slope_at_integer_coords_is_towards_the_next_pixel():
    image = np.array([[1.0, 2.0, 4.0], [10.0, 30.0, 70.0]], np.float32)[None, :, :, None]
    coords = np.array([[[0, 0], [0, 1], [1, 0], [1, 2], [-1, 1], [2, 1]]], np.float32)
    got = bilinear_gradients(image, coords, 1.0)[1][0]
    # (below minus here, right minus here); beyond the border is zero.
    want = [[9, 1], [28, 2], [-10, 20], [-70, -70], [2, 0], [0, 0]]
    np.testing.assert_array_equal(got, want)


def test_bilinear_of_bfloat16_image_rounds_only_the_result():
    image = jnp.asarray(normal(0, 2, 5, 7, 3), jnp.bfloat16)
    coords = points_around(1, 2, 40, (5, 7))
    got = bilinear(image, coords)
    assert got.dtype == jnp.bfloat16
    want = naive_bilinear(np.asarray(image, np.float32), coords)
    np.testing.assert_allclose(np.asarray(got, np.float32), want, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(("position", "each"), [((1.0, 1.0), 4096.0), ((1.5, 1.5), 1024.0)])
def test_bilinear_gradient_of_bfloat16_image_is_summed_in_float32(position, each):
    # A bfloat16 sum of ones stalls at 256: 256 + 1 rounds to 256.
    image = jnp.ones((1, 4, 4, 1), jnp.bfloat16)
    coords = jnp.broadcast_to(jnp.array(position, jnp.float32), (1, 4096, 2))
    got = bilinear_gradients(image, coords, 1.0)[0]
    assert got.dtype == jnp.bfloat16
    assert float(got[0, 1, 1, 0]) == each
    assert float(jnp.sum(got.astype(jnp.float32))) == 4096.0


def test_bilinear_coords_gradient_is_float32_for_a_bfloat16_image():
    image = jnp.asarray(normal(0, 1, 5, 7, 8), jnp.bfloat16)
    coords = points_around(1, 1, 20, (5, 7))
    got = bilinear_gradients(image, coords, 1.0)[1]
    want = bilinear_gradients(image.astype(jnp.float32), coords, 1.0)[1]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("far", [np.inf, -np.inf, 3e38, -3e38, 3e9, -3e9])
def test_bilinear_is_zero_with_zero_gradients_at_infinite_and_huge_coords(far):
    image = normal(0, 1, 3, 4, 2)
    coords = np.array([[[far, 1.5], [1.5, far], [far, far], [far, -far]]], np.float32)
    np.testing.assert_array_equal(bilinear(image, coords), np.zeros((1, 4, 2)))
    gradients = bilinear_gradients(image, coords, 1.0)
    np.testing.assert_array_equal(gradients[0], np.zeros_like(image))
    np.testing.assert_array_equal(gradients[1], np.zeros_like(coords))


def test_bilinear_nan_coord_leaves_the_other_samples_alone():
    image = normal(0, 1, 3, 4, 2)
    coords = np.array([[[np.nan, 1.5], [1.25, 1.5]]], np.float32)
    got = np.asarray(bilinear(image, coords))
    # What a NaN coordinate reads depends on how the platform converts it to an integer: NaN or zero.
    assert np.all(np.isnan(got[0, 0]) | (got[0, 0] == 0))
    np.testing.assert_allclose(got[0, 1], naive_bilinear(image, coords[:, 1:])[0, 0], atol=1e-6)


def test_bilinear_and_its_gradients_work_under_vmap():
    image, coords = normal(0, 3, 2, 4, 5, 3), points_around(1, 6, 20, (4, 5)).reshape(3, 2, 20, 2)
    factors = normal(2, 3, 2, 20, 3)
    want = np.stack([naive_bilinear(i, c) for i, c in zip(image, coords, strict=True)])
    np.testing.assert_allclose(jax.jit(jax.vmap(bilinear_sample))(image, coords), want, atol=2e-6)
    together = jax.jit(jax.vmap(bilinear_gradients))(image, coords, factors)
    for entry in range(3):
        alone = bilinear_gradients(image[entry], coords[entry], factors[entry])
        for got, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(got[entry], one, atol=1e-5)


def test_bilinear_gradient_of_coords_under_jit_takes_a_numpy_image():
    image, coords = normal(0, 1, 5, 7, 2), points_around(1, 1, 20, (5, 7))
    got = jax.jit(jax.grad(lambda c: jnp.sum(bilinear_sample(image, c))))(coords)
    np.testing.assert_allclose(got, bilinear_gradients(image, coords, 1.0)[1], atol=1e-6)


def test_bilinear_without_jit_equals_jit():
    image, coords = normal(0, 3, 5, 7, 2), points_around(1, 3, 60, (5, 7))
    np.testing.assert_allclose(bilinear_sample(image, coords), bilinear(image, coords), atol=1e-6)


@pytest.mark.parametrize(
    ("image_shape", "coords_shape"),
    [
        ((4, 5, 3), (4, 6, 2)),
        ((2, 4, 5, 3), (2, 6, 3)),
        ((2, 4, 5, 3), (3, 6, 2)),
        ((2, 4, 5, 3), (2,)),
    ],
)
def test_bilinear_names_shapes_that_do_not_fit(image_shape, coords_shape):
    with pytest.raises(ValueError) as error:
        bilinear(jnp.zeros(image_shape), jnp.zeros(coords_shape))
    assert str(image_shape) in str(error.value) and str(coords_shape) in str(error.value)


def test_sample_groups_reads_each_group_at_its_own_coords():
    image = normal(0, 2, 4, 5, 3, 2)  # [B, H, W, G, c]
    coords = points_around(1, 2, 7 * 3 * 4, (4, 5)).reshape(2, 7, 4, 3, 2)  # [B, P, K, G, 2]
    got = jax.jit(sample_groups)(image, coords)
    assert got.shape == (2, 7, 4, 3, 2)
    for group in range(3):
        want = naive_bilinear(image[:, :, :, group], coords[:, :, :, group].reshape(2, 28, 2))
        np.testing.assert_allclose(got[:, :, :, group], want.reshape(2, 7, 4, 2), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_samples_are_the_bilinear_ones_and_the_sums_of_their_rows(dtype):
    image, coords = jnp.asarray(normal(0, 3, 5, 7, 4), dtype), points_around(1, 3, 60, (5, 7))
    samples = jax.jit(Samples.bilinear)(image, coords.reshape(3, 6, 10, 2)).reshape((18, 10))
    want = bilinear(image, coords).reshape(18, 10, 4)
    assert samples.values.dtype == dtype and jnp.array_equal(samples.values, want)
    assert samples.table.shape == (3 * 5 * 7, 4) and samples.index.dtype == jnp.int32
    assert samples.index.shape == samples.weight.shape == (4, 18, 10)
    rows = samples.table[samples.index].astype(jnp.float32)
    np.testing.assert_allclose(
        jnp.sum(rows * samples.weight[..., None], axis=0), want.astype(jnp.float32), rtol=2**-8, atol=2e-6
    )


def test_gradients_of_samples_go_through_their_values_alone():
    image, coords = normal(0, 1, 5, 7, 2), points_around(1, 1, 20, (5, 7))

    def total(image, coords):
        samples = Samples.bilinear(image, coords)
        return jnp.sum(samples.values) + jnp.sum(samples.table) + jnp.sum(samples.weight)

    got = jax.jit(jax.grad(total, (0, 1)))(image, coords)
    for gradient, want in zip(got, bilinear_gradients(image, coords, 1.0), strict=True):
        np.testing.assert_array_equal(gradient, want)


def test_values_of_a_tree_stand_for_its_samples():
    image, coords = normal(0, 1, 3, 4, 2), points_around(1, 1, 5, (3, 4))
    samples = Samples.bilinear(image, coords)
    (got,), same = values_of(((samples,), coords))
    assert got is samples.values and same is coords


@pytest.mark.parametrize("size", [(5, 7), (4, 6), (1, 1), (1, 6)])
def test_nearest_equals_loop_inside_and_beyond_borders(size):
    image, coords = normal(0, 3, *size, 2), points_around(1, 3, 60, size)
    np.testing.assert_array_equal(nearest(image, coords), naive_nearest(image, coords))


def test_nearest_ties_go_to_the_even_pixel():
    image = np.arange(1.0, 7.0, dtype=np.float32)[None, None, :, None]  # one row: 1 .. 6
    coords = np.stack([np.zeros(7), np.arange(7) - 0.5], axis=-1)[None].astype(np.float32)
    # -0.5 -> 0, 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, 3.5 -> 4, 4.5 -> 4, 5.5 -> 6, outside.
    np.testing.assert_array_equal(nearest(image, coords)[0, :, 0], [1, 1, 3, 3, 5, 5, 0])


def test_nearest_is_zero_outside_and_at_infinite_and_huge_coords():
    outside = [[-0.6, 1], [2.6, 1], [1, -0.6], [1, 3.6]]
    far = [[v, 1] for v in (np.inf, -np.inf, 3e38, -3e38, 3e9)]
    got = nearest(normal(0, 1, 3, 4, 2), np.array([outside + far], np.float32))
    np.testing.assert_array_equal(got, np.zeros((1, 9, 2)))


def test_nearest_gradient_reaches_the_image_alone():
    image, coords = normal(0, 2, 4, 5, 3), points_around(1, 2, 50, (4, 5))
    d_image, d_coords = jax.jit(jax.grad(lambda i, c: jnp.sum(nearest(i, c)), (0, 1)))(image, coords)
    count = np.zeros_like(image)
    for b, p in np.ndindex(2, 50):
        y, x = np.rint(coords[b, p]).astype(int)
        if 0 <= y < 4 and 0 <= x < 5:
            count[b, y, x] += 1
    np.testing.assert_array_equal(d_image, count)
    np.testing.assert_array_equal(d_coords, np.zeros_like(coords))


def test_nearest_keeps_extra_axes_and_the_dtype():
    image = jnp.asarray(normal(0, 2, 4, 5, 3), jnp.bfloat16)
    coords = points_around(1, 2, 12, (4, 5))
    got = nearest(image, coords.reshape(2, 3, 4, 2))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.reshape(2, 12, 3), naive_nearest(image, coords))


def test_nearest_names_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 4, 5, 3\).*\(1, 6, 2\)"):
        nearest(jnp.zeros((2, 4, 5, 3)), jnp.zeros((1, 6, 2)))


def test_normalized_ends_are_the_outer_edges():
    points = jnp.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [-0.75, 0.5]])
    want = [[-0.5, -0.5], [3.5, 7.5], [1.5, 3.5], [0.0, 5.5]]
    np.testing.assert_array_equal(normalized_to_pixels(points, (4, 8)), want)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(5, 7), (4, 6), (1, 3)])
def test_grid_sample_equals_loop_of_the_pytorch_definition(mode, size):
    image = normal(0, 2, *size, 3)
    grid = np.random.default_rng(1).uniform(-1.4, 1.4, (2, 6, 9, 2)).astype(np.float32)
    coords = naive_pytorch_grid(grid.reshape(2, 54, 2), size)
    naive = naive_bilinear if mode == "bilinear" else naive_nearest
    got = sample_grid(image, grid, mode=mode)
    np.testing.assert_allclose(got, naive(image, coords).reshape(2, 6, 9, 3), atol=5e-6)


def test_grid_sample_literal_values():
    # One row 1, 2, 3, 4: centres at x = -0.75, -0.25, 0.25, 0.75, outer edges at -1 and 1.
    image = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4, 1)
    x = jnp.array([-0.75, 0.75, 0.0, -0.5, -1.0, 1.0, 0.875, 1.25, -1.25])
    grid = jnp.stack([x, jnp.zeros_like(x)], axis=-1)[None]
    got = sample_grid(image, grid)[0, :, 0]
    np.testing.assert_allclose(got, [1, 4, 2.5, 1.5, 0.5, 2, 3, 0, 0], atol=1e-6)
    # In pixels 0, 3, 1.5, 0.5, -0.5, 3.5, 3.25, 4, -1; ties to the even pixel.
    got = sample_grid(image, grid, mode="nearest")[0, :, 0]
    np.testing.assert_array_equal(got, [1, 4, 3, 1, 1, 0, 4, 0, 0])


def test_grid_sample_grid_is_x_first():
    image = jnp.arange(6.0).reshape(1, 2, 3, 1)
    grid = jnp.array([[[2 / 3, -0.5], [-2 / 3, 0.5]]])  # (x, y): upper right, lower left
    np.testing.assert_allclose(sample_grid(image, grid)[0, :, 0], [2, 3], atol=1e-5)


def test_grid_sample_names_an_unknown_mode():
    with pytest.raises(ValueError, match="'bicubic'.*bilinear.*nearest"):
        grid_sample(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 1, 2)), mode="bicubic")


def test_frames_between_are_weighed_by_nearness():
    frames = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    positions = np.array([[0.0, 0.25, 1.0], [1.75, 2.0, 0.5]], np.float32)
    result = interpolate_frames(frames, positions)
    for b, t in np.ndindex(2, 3):
        weights = np.maximum(0, 1 - np.abs(np.arange(3) - positions[b, t]))  # a tent
        np.testing.assert_allclose(result[b, t], np.einsum("n,nhwc->hwc", weights, frames[b]), atol=1e-6)
    same = interpolate_frames(frames, np.tile(np.arange(3, dtype=np.float32), (2, 1)))
    np.testing.assert_array_equal(same, frames)


def test_the_gradient_of_a_position_is_the_difference_of_its_neighbours():
    frames = np.random.default_rng(1).normal(size=(1, 3, 2, 2, 1)).astype(np.float32)
    slope = jax.grad(lambda t: interpolate_frames(frames, t).sum())(jnp.array([[1.25]]))
    np.testing.assert_allclose(slope[0, 0], (frames[0, 2] - frames[0, 1]).sum(), rtol=1e-5)
    assert interpolate_frames(frames.astype(jnp.bfloat16), np.ones((1, 1), np.float32)).dtype == jnp.bfloat16


def test_frames_and_positions_of_other_batches_are_refused():
    with pytest.raises(ValueError, match="interpolate_frames: .* got"):
        interpolate_frames(jnp.zeros((2, 3, 4, 4, 3)), jnp.zeros((3, 1)))
