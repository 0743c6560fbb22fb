"""One battery for every implementation of the deformable convolution, against loops of the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from stvsr_jax.ops.deform_conv import api as deform_conv
from stvsr_jax.ops.deform_conv import deform_columns, deform_conv2d, deform_conv2d_of_head
from stvsr_jax.ops.deform_conv import triton as deform_conv_triton

every_implementation = pytest.mark.parametrize("implementation", ["gather", "pallas_interpreted", "windowed"])


@pytest.fixture(autouse=True)
def interpreted_kernel(monkeypatch):
    """Adds the GPU's kernels as any machine can run them, slowly and for any dtype."""
    run = functools.partial(deform_conv._run_kernels, interpret=True)
    monkeypatch.setitem(deform_conv.IMPLEMENTATIONS, "pallas_interpreted", run)


# Nothing is the same along y and x, so that a swapped pair shows.
GEOMETRY = dict(stride=(2, 1), dilation=(2, 1), padding=(1, 0))
KERNEL_SIZE = (3, 2)


def naive_sample(image, y, x):
    """Returns the bilinear value [c] of image [H, W, c]; corners outside are zero."""
    value = np.zeros(image.shape[-1])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return value


def naive_deform_conv(x, offset, mask, kernel, bias, *, stride=(1, 1), dilation=(1, 1), padding=(1, 1)):
    """Returns float64 [B, H', W', C'], every sum of the definition as a loop."""
    x, offset, mask, kernel, bias = (np.asarray(a, np.float64) for a in (x, offset, mask, kernel, bias))
    groups, width = offset.shape[3], kernel.shape[1]
    each = x.shape[-1] // groups
    out = np.zeros((*offset.shape[:3], kernel.shape[-1])) + bias
    for b, i, j, g, k in np.ndindex(*mask.shape):
        ky, kx = divmod(k, width)
        y = i * stride[0] - padding[0] + ky * dilation[0] + offset[b, i, j, g, k, 0]
        z = j * stride[1] - padding[1] + kx * dilation[1] + offset[b, i, j, g, k, 1]
        group = slice(g * each, (g + 1) * each)
        value = naive_sample(x[b, :, :, group], y, z)
        out[b, i, j] += mask[b, i, j, g, k] * value @ kernel[ky, kx, group]
    return out


def out_size(size, kernel_size, *, stride=(1, 1), dilation=(1, 1), padding=(1, 1)):
    """Returns how often the kernel fits, counted by moving it."""
    counts = []
    for n, k, s, d, p in zip(size, kernel_size, stride, dilation, padding, strict=True):
        starts = range(-p, n + p, s)
        counts.append(sum(start + (k - 1) * d < n + p for start in starts))
    return tuple(counts)


def example(
    seed, *, size=(7, 5), batch=2, channels=4, out=3, groups=2, kernel_size=(3, 3), reach=1.5, **geometry
):
    """Returns float32 (x, offset, mask, kernel, bias); offsets are away from integers, within +-reach."""
    rng = np.random.default_rng(seed)
    shape = (batch, *out_size(size, kernel_size, **geometry), groups, kernel_size[0] * kernel_size[1])
    offset = rng.uniform(-reach, reach, (*shape, 2))
    offset = np.floor(offset) + 0.1 + 0.8 * (offset - np.floor(offset))
    arrays = (
        rng.standard_normal((batch, *size, channels)),
        offset,
        rng.uniform(0.1, 1.0, shape),
        rng.standard_normal((*kernel_size, channels, out)),
        rng.standard_normal(out),
    )
    return tuple(a.astype(np.float32) for a in arrays)


def run(implementation, *arrays, **geometry):
    function = functools.partial(deform_conv2d, implementation=implementation, **geometry)
    return jax.jit(function)(*arrays)


def plain_convolution(x, kernel, bias, *, stride=(1, 1), dilation=(1, 1), padding=(1, 1)):
    pads = tuple((p, p) for p in padding)
    layout = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(
        x, kernel, stride, pads, rhs_dilation=dilation, dimension_numbers=layout, precision="highest"
    )
    return out + bias


@every_implementation
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_equals_loops_whatever_the_geometry(implementation, groups):
    arrays = example(0, kernel_size=KERNEL_SIZE, groups=groups, reach=3.0, **GEOMETRY)
    got = run(implementation, *arrays, **GEOMETRY)
    assert got.shape == (2, 3, 4, 3) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, naive_deform_conv(*arrays, **GEOMETRY), atol=2e-5)


@every_implementation
@pytest.mark.parametrize("size", [(5, 7), (4, 6), (1, 1), (1, 5)])
def test_equals_loops_at_odd_and_tiny_sizes(implementation, size):
    arrays = example(1, size=size, reach=2.0)
    np.testing.assert_allclose(run(implementation, *arrays), naive_deform_conv(*arrays), atol=2e-5)


@every_implementation
def test_offsets_far_beyond_the_border_read_zero(implementation):
    x, offset, mask, kernel, bias = example(2)
    far = np.sign(offset) * 100
    got = run(implementation, x, far, mask, kernel, bias)
    np.testing.assert_allclose(got, np.broadcast_to(bias, got.shape), atol=1e-6)
    some = np.where(np.random.default_rng(0).uniform(size=mask.shape)[..., None] < 0.5, far, offset)
    want = naive_deform_conv(x, some, mask, kernel, bias)
    np.testing.assert_allclose(run(implementation, x, some, mask, kernel, bias), want, atol=2e-5)


@every_implementation
@pytest.mark.parametrize("geometry", [{}, GEOMETRY, dict(stride=(1, 3), padding=(2, 1))])
def test_zero_offset_and_mask_one_equals_convolution(implementation, geometry):
    x, offset, mask, kernel, bias = example(3, size=(9, 8), **geometry)
    got = run(implementation, x, 0 * offset, np.ones_like(mask), kernel, bias, **geometry)
    np.testing.assert_allclose(got, plain_convolution(x, kernel, bias, **geometry), atol=2e-5)


@every_implementation
@pytest.mark.parametrize("shift", [(1, -2), (-3, 0), (0, 1)])
def test_integer_offset_equals_convolution_of_the_shifted_image(implementation, shift):
    x, offset, mask, kernel, bias = example(4, size=(6, 7))
    offset = np.broadcast_to(np.float32(shift), offset.shape)
    got = run(implementation, x, offset, np.ones_like(mask), kernel, bias)
    wide = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))  # zeros all round, as outside the image
    moved = np.roll(wide, (-shift[0], -shift[1]), axis=(1, 2))
    want = plain_convolution(moved, kernel, bias)[:, 4:-4, 4:-4]
    np.testing.assert_allclose(got, want, atol=2e-5)


@every_implementation
def test_each_group_moves_its_own_channels(implementation):
    x, offset, _, _, _ = example(5, groups=2, channels=4, kernel_size=(1, 1), padding=(0, 0))
    offset = np.zeros_like(offset)
    offset[:, :, :, 1, 0, 1] = 1.0  # the second group looks one pixel to the right
    mask, identity = np.ones(offset.shape[:-1], np.float32), np.eye(4, dtype=np.float32)[None, None]
    got = run(implementation, x, offset, mask, identity, padding=0)
    want = x.copy()
    want[:, :, :, 2:] = np.pad(x[:, :, 1:, 2:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    np.testing.assert_allclose(got, want, atol=1e-6)


@every_implementation
def test_gradients_equal_central_differences(implementation):
    arrays = example(6, size=(6, 5), kernel_size=KERNEL_SIZE, reach=2.0, **GEOMETRY)
    rng = np.random.default_rng(7)
    factors = rng.standard_normal((2, *out_size((6, 5), KERNEL_SIZE, **GEOMETRY), 3))

    def loss(*arrays):
        return jnp.sum(factors * deform_conv2d(*arrays, implementation=implementation, **GEOMETRY))

    gradients = jax.jit(jax.grad(loss, range(5)))(*arrays)
    for argument, name in enumerate(("x", "offset", "mask", "kernel", "bias")):
        for _ in range(5):  # slopes along random directions, the loops in float64
            direction = rng.standard_normal(arrays[argument].shape)
            ends = []
            for step in (1e-4, -1e-4):
                moved = list(arrays)
                moved[argument] = arrays[argument].astype(np.float64) + step * direction
                ends.append(np.sum(factors * naive_deform_conv(*moved, **GEOMETRY)))
            want = (ends[0] - ends[1]) / 2e-4
            got = np.sum(np.asarray(gradients[argument], np.float64) * direction)
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3, err_msg=f"gradient of {name}")


@every_implementation
def test_offset_gradient_at_zero_offsets_is_the_slope_to_the_next_pixel(implementation):
    # One tap, one channel: the gradient is mask * kernel * (next pixel - this pixel).
    x = np.random.default_rng(8).standard_normal((1, 4, 5, 1)).astype(np.float32)
    mask = np.full((1, 4, 5, 1, 1), 0.5, np.float32)
    kernel = np.full((1, 1, 1, 1), 3.0, np.float32)

    def loss(offset):
        image = jnp.asarray(x)
        return jnp.sum(deform_conv2d(image, offset, mask, kernel, padding=0, implementation=implementation))

    got = jax.jit(jax.grad(loss))(jnp.zeros((1, 4, 5, 1, 1, 2)))[0, :, :, 0, 0]
    padded = np.pad(x[0, :, :, 0], ((0, 1), (0, 1)))
    np.testing.assert_allclose(got[..., 0], 1.5 * (padded[1:, :-1] - padded[:-1, :-1]), atol=1e-5)
    np.testing.assert_allclose(got[..., 1], 1.5 * (padded[:-1, 1:] - padded[:-1, :-1]), atol=1e-5)
    assert np.all(np.abs(got) > 0)


def value_and_gradients(implementation, *arrays):
    def loss(*arrays):
        out = deform_conv2d(*arrays, implementation=implementation)
        return jnp.mean(out.astype(jnp.float32) ** 2), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, range(5), has_aux=True))(*arrays)
    return out, gradients


@functools.cache  # compiled once for all implementations and dtypes
def of_float32():
    return value_and_gradients("gather", *example(9, size=(6, 6), channels=8))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@every_implementation
def test_values_and_gradients_of_16_bits_are_close_to_float32(implementation, dtype):
    x, offset, mask, kernel, bias = example(9, size=(6, 6), channels=8)
    half = (
        jnp.asarray(x, dtype),
        offset,
        *(jnp.asarray(a, dtype) for a in (mask, kernel, bias)),
    )
    want, want_gradients = of_float32()
    got, gradients = value_and_gradients(implementation, *half)
    assert got.dtype == dtype
    assert relative_l2(got, want) < (0.01 if dtype == jnp.bfloat16 else 0.002)
    names = ("x", "offset", "mask", "kernel", "bias")
    for name, given, gradient, reference in zip(names, half, gradients, want_gradients, strict=True):
        assert gradient.dtype == given.dtype, name
        assert relative_l2(gradient, reference) < 0.02, name


def relative_l2(value, reference):
    value = np.asarray(value, np.float64)
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


@every_implementation
def test_without_bias_equals_zero_bias(implementation):
    x, offset, mask, kernel, bias = example(10)
    got = run(implementation, x, offset, mask, kernel)
    np.testing.assert_allclose(got, run(implementation, x, offset, mask, kernel, 0 * bias), atol=1e-6)


def test_geometry_as_one_number_means_both_axes():
    geometry = dict(stride=(2, 2), dilation=(2, 2), padding=(2, 2))
    arrays = example(11, **geometry)
    got = jax.jit(functools.partial(deform_conv2d, stride=2, dilation=2, padding=2))(*arrays)
    np.testing.assert_allclose(got, naive_deform_conv(*arrays, **geometry), atol=2e-5)


def zeros(**shapes):
    """Returns arguments that fit together, with some shapes replaced."""
    fitting = dict(
        x=(2, 6, 5, 4), offset=(2, 6, 5, 2, 9, 2), mask=(2, 6, 5, 2, 9), kernel=(3, 3, 4, 3), bias=(3,)
    )
    return {name: jnp.zeros(shape) for name, shape in (fitting | shapes).items()}


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        (dict(x=(6, 5, 4)), "(6, 5, 4)"),
        (dict(kernel=(3, 3, 4)), "(3, 3, 4)"),
        (dict(offset=(2, 6, 5, 36)), "(2, 6, 5, 36)"),
        (dict(offset=(2, 6, 4, 2, 9, 2)), "(2, 6, 4, 2, 9, 2)"),
        (dict(offset=(1, 6, 5, 2, 9, 2)), "(1, 6, 5, 2, 9, 2)"),
        (dict(offset=(2, 6, 5, 2, 9, 3)), "(2, 6, 5, 2, 9, 3)"),
        (dict(mask=(2, 6, 5, 2, 8)), "(2, 6, 5, 2, 8)"),
        (dict(mask=(2, 6, 5, 1, 9)), "(2, 6, 5, 1, 9)"),
        (dict(kernel=(2, 3, 4, 3)), "(2, 3, 4, 3)"),
        (dict(kernel=(3, 3, 6, 3)), "6"),
        (dict(x=(2, 6, 5, 3), kernel=(3, 3, 3, 3)), "3 channels"),
        pytest.param(
            dict(bias=(4,)),
            "(4,)",
        ),
    ],
)
def test_wrong_shapes_are_named(shapes, named):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(lambda given: deform_conv2d(**given), zeros(**shapes))
    assert "deform_conv2d" in str(error.value) and named in str(error.value)


def test_unknown_implementation_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="'cuda'.*gather"):
        deform_conv2d(**zeros(), implementation="cuda")


def head_example(dtype=jnp.bfloat16):
    """Returns (x, head, kernel, bias) as the networks have them, small."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (1, 8, 9, 16), (1, 8, 9, 27 * 4), (3, 3, 16, 16), (16,)
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(keys, shapes, strict=True)]


def convolve_columns(x, head, kernel, bias, **options):
    return deform_columns(x, head, groups=4, **options) @ kernel.reshape(-1, 16) + bias


def test_columns_times_kernel_equal_offsets_and_sigmoids_given_apart():
    x, head, kernel, bias = head_example(jnp.float32)
    parts = head.reshape(1, 8, 9, 9, 3, 4)  # tap, (y, x, logit), group
    offset = jnp.moveaxis(parts[..., :2, :], -1, 3)  # [B, H, W, G, K, 2]
    mask = jax.nn.sigmoid(jnp.moveaxis(parts[..., 2, :], -1, 3))
    want = deform_conv2d(x, offset, mask, kernel, bias)
    np.testing.assert_allclose(convolve_columns(x, head, kernel, bias), want, atol=1e-5)


def test_columns_name_a_head_that_does_not_fit():
    x, head, _, _ = head_example()
    with pytest.raises(ValueError, match=r"offset must be \(1, 8, 9, 4, 9, 2\)"):
        deform_columns(x, head[:, :7], groups=4)
    with pytest.raises(ValueError, match=r"head \[B, H, W, 108\].*got .*107"):
        deform_columns(x, head[..., :107], groups=4)


def test_cuda_takes_the_kernel_for_16_bits_and_gathers_otherwise():
    def lower(dtype):
        def loss(*operands):
            return jnp.sum(convolve_columns(*operands).astype(jnp.float32) ** 2)

        device = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="cuda")
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
            traced = jax.jit(jax.grad(loss, range(4))).trace(*head_example(dtype))
            return traced.lower(lowering_platforms=("cuda",)).as_text().lower()

    assert "triton" in lower(jnp.bfloat16) and "triton" in lower(jnp.float16)
    assert "triton" not in lower(jnp.float32)


def test_kernel_refuses_32_bits():
    with pytest.raises(NotImplementedError, match="pallas_triton runs 16 bits.*float32"):
        deform_conv2d(**zeros(), implementation="pallas_triton")


def test_more_images_than_32_bits_index_are_read_one_after_the_other(monkeypatch):
    x, head, _, _ = (jnp.concatenate([a, 2 * a, 3 * a]) for a in head_example(jnp.float32))

    def gradients(implementation):
        def loss(*operands):
            return jnp.sum(deform_columns(*operands, groups=4, implementation=implementation) ** 2)

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, head)

    want = jax.tree.leaves(gradients("pallas_interpreted"))
    monkeypatch.setattr(deform_conv_triton, "is_indexable", lambda x, head: len(x) == 1)
    for got, reference in zip(jax.tree.leaves(gradients("pallas_interpreted")), want, strict=True):
        np.testing.assert_allclose(got, reference, rtol=1e-5, atol=1e-5)


def test_indices_of_32_bits_are_counted_for_all_images():
    def shapes(images, size):
        return (
            jax.ShapeDtypeStruct((images, *size, 64), jnp.bfloat16),
            jax.ShapeDtypeStruct((images, *size, 9, 3, 8), jnp.bfloat16),
        )

    fits = deform_conv_triton.is_indexable
    assert (
        fits(*shapes(2, (1080, 1720)))
        and not fits(*shapes(2, (1080, 1920)))
        and fits(*shapes(1, (1080, 1920)))
    )


@pytest.mark.parametrize("slope", [None, 0.1])
def test_of_head_is_the_product_with_the_columns(slope):
    rng = np.random.default_rng(3)
    shape, groups = (2, 1, 5, 6), 2

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    x, head, kernel, bias = draw(*shape, 4), draw(*shape, 27 * groups), draw(2, 1, 1, 36, 3), draw(2, 3)
    together = deform_conv2d_of_head(x, head, kernel, bias, groups=groups, slope=slope)
    assert together.shape == (*shape, 3)
    for i in range(2):
        alone = deform_conv2d_of_head(x[i], head[i], kernel[i], bias[i], groups=groups, slope=slope)
        want = deform_columns(x[i], head[i], groups=groups) @ kernel[i, 0, 0] + bias[i]
        want = want if slope is None else jnp.where(want > 0, want, slope * want)
        np.testing.assert_allclose(alone, want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-5)


def test_tpus_take_their_kernels_where_these_can_and_no_other_device_does():
    def kernels(channels, platform):
        x, head, kernel, bias = (
            jax.ShapeDtypeStruct(s, jnp.bfloat16)
            for s in [(1, 4, 8, channels), (1, 4, 8, 216), (1, 1, 9 * channels, 16), (16,)]
        )
        device = AbstractDevice(device_kind="any", num_cores=None, platform="tpu")
        mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            traced = jax.jit(lambda *a: deform_conv2d_of_head(*a, groups=8)).trace(x, head, kernel, bias)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("tpu_custom_call")

    assert kernels(64, "tpu") == 3  # one window; as many as are needed, and what rolls between them
    assert kernels(64, "cpu") == kernels(32, "tpu") == 0
