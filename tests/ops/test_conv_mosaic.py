"""The kernel of Hopper GPUs: interpreted on a CPU against the definition, and lowered for a GPU without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from stvsr_jax.ops import conv_mosaic
from stvsr_jax.ops.conv import conv2d

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="the kernel is written for Mosaic GPU of jax 0.11 and later"
)
H200 = AbstractMesh(
    (1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu")
)


def example(shape, channels, features, kernel_size, dtype=jnp.bfloat16, has_addend=True):
    """Returns (inputs, kernel, bias, addend)."""
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0):
        return jnp.asarray(scale * rng.standard_normal(shape), dtype)

    inputs = tuple(draw(*shape, c) for c in channels)
    kernel = draw(
        kernel_size, kernel_size, sum(channels), features, scale=(kernel_size**2 * sum(channels)) ** -0.5
    )
    return inputs, kernel, draw(features), draw(*shape, features) if has_addend else None


@pytest.mark.parametrize(
    ("shape", "channels", "features", "kernel_size", "has_addend", "slope"),
    [
        ((2, 9, 20), (64,), 64, 3, False, 0.1),  # several windows for each program, some reach over the edge
        ((1, 17, 36), (64,), 64, 3, True, None),  # windows of 8 lines
        ((1, 6, 17), (64, 64), 64, 3, True, 0.0),
        ((1, 5, 18), (128,), 64, 3, False, None),
        ((1, 5, 18), (64,), 128, 3, True, 0.1),  # two halves
        ((1, 5, 18), (64,), 216, 3, False, None),  # the last block is not whole
        ((2, 9, 20), (64, 128), 64, 1, True, 0.1),
    ],
)
def test_kernel_equals_the_definition(shape, channels, features, kernel_size, has_addend, slope):
    from jax.experimental.pallas import mosaic_gpu

    operands = example(shape, channels, features, kernel_size, has_addend=has_addend)
    # So few multiprocessors that programs make several windows.
    got = conv_mosaic.run(
        *operands, slope=slope, multiprocessors=4, interpret=mosaic_gpu.InterpretGPUParams()
    )
    assert got.shape == (*shape, features) and got.dtype == jnp.bfloat16

    inputs, kernel, bias, addend = jax.tree.map(lambda x: x.astype(jnp.float32), operands)
    want = conv2d(inputs, kernel, 1, kernel_size // 2, bias=bias, addend=addend, slope=slope)
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8, atol=2e-3)


def lowered(function, *operands):
    with jax.sharding.use_abstract_mesh(H200):
        return jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("channels", "features", "kernel_size", "kernels"),
    [((64,), 64, 3, 1), ((64, 64), 64, 3, 1), ((576,), 64, 1, 1), ((64,), 3, 3, 0), ((32,), 64, 3, 0)],
)
def test_a_hopper_gpu_takes_the_kernel_where_it_can(channels, features, kernel_size, kernels):
    operands = example((2, 12, 20), channels, features, kernel_size)

    def run(inputs, kernel, bias, addend):
        return conv2d(inputs, kernel, 1, kernel_size // 2, bias=bias, addend=addend, slope=0.1)

    program = lowered(run, *operands)
    assert program.count("stablehlo.custom_call @mosaic_gpu") == kernels
    assert ("mosaic_gpu" in program) == bool(kernels)


def test_the_derivative_by_the_input_takes_the_kernel():
    (x,), kernel, bias, _ = example((2, 12, 20), (64,), 64, 3)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(conv2d(x, kernel, bias=bias, slope=0.1).astype(jnp.float32)))(x)

    one, both = (
        lowered(f, x).count("stablehlo.custom_call @mosaic_gpu")
        for f in (functools.partial(conv2d, kernel=kernel, bias=bias, slope=0.1), gradient)
    )
    assert (one, both) == (1, 2)


def test_other_devices_take_xlas_convolution():
    operands = example((1, 8, 16), (64,), 64, 3)

    def run(inputs, kernel, bias, addend):
        return conv2d(inputs, kernel, bias=bias, addend=addend)

    assert "mosaic_gpu" not in jax.jit(run).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
    np.testing.assert_array_equal(run(*operands), jax.jit(run)(*operands))


def test_weights_that_do_not_fit_into_shared_memory_are_left_to_xla():
    assert conv_mosaic.make_plan(3, 2, 64, 10**6, 132) is not None
    assert conv_mosaic.make_plan(3, 3, 64, 10**6, 132) is None
    inputs, kernel, _, _ = example((1, 8, 16), (192,), 64, 3)
    assert not conv_mosaic.is_supported(inputs, kernel, 1, 1)
