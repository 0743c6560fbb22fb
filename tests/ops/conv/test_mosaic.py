"""The kernel of Hopper GPUs: interpreted on a CPU against the definition, and lowered for a GPU without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from stvsr_jax.ops.conv import conv2d
from stvsr_jax.ops.conv import mosaic as conv_mosaic
from stvsr_jax.ops.shuffle import pixel_shuffle

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="the kernel is written for Mosaic GPU of jax 0.11 and later"
)
H200 = AbstractMesh(
    (1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu")
)


def example(shape, channels, features, kernel_size, *, sets=1, groups=None, has_addend=True):
    """Returns (inputs, kernel, bias, addend) of `sets` convolutions; `groups` are those of each input."""
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0):
        return jnp.asarray(scale * rng.standard_normal(shape), jnp.bfloat16)

    groups = groups or (sets,) * len(channels)
    inputs = tuple(draw(g, *shape, c) for g, c in zip(groups, channels, strict=True))
    scale = (kernel_size**2 * sum(channels)) ** -0.5
    kernel = draw(sets, kernel_size, kernel_size, sum(channels), features, scale=scale)
    addend = draw(sets, *shape, features) if has_addend else None
    return inputs, kernel, draw(sets, features), addend


def one(operands):
    """Returns the operands of a single convolution."""
    return jax.tree.map(lambda x: x[0], operands)


@pytest.mark.parametrize(
    ("shape", "channels", "features", "kernel_size", "options", "slope"),
    [
        (
            (2, 9, 20),
            (64,),
            64,
            3,
            dict(has_addend=False),
            0.1,
        ),  # several windows a program, some over the edge
        ((1, 17, 12), (64,), 64, 3, dict(), None),
        ((1, 6, 17), (64, 64), 64, 3, dict(), 0.0),
        ((1, 5, 18), (128,), 64, 3, dict(has_addend=False), None),
        ((1, 5, 18), (64,), 128, 3, dict(), 0.1),  # two blocks
        ((1, 5, 18), (64,), 72, 3, dict(has_addend=False), None),  # the last block is not whole
        ((2, 9, 20), (64, 128), 64, 1, dict(), 0.1),
        ((1, 8, 12), (216,), 64, 3, dict(), 0.1),  # in two parts, the last 64 channels are not whole
        ((1, 8, 12), (128, 64), 64, 3, dict(has_addend=False), 0.1),
        ((2, 8, 12), (64,), 64, 3, dict(sets=4, groups=(2,)), 0.1),
        ((1, 8, 12), (64, 64), 72, 3, dict(sets=2, groups=(1, 2)), 0.1),
        ((1, 8, 12), (64,), 3, 3, dict(), 0.1),
    ],
)
def test_kernel_equals_the_definition(shape, channels, features, kernel_size, options, slope):
    from jax.experimental.pallas import mosaic_gpu

    operands = example(shape, channels, features, kernel_size, **options)
    # So few sms that programs make several windows.
    got = conv_mosaic.run(*operands, slope=slope, sms=4, interpret=mosaic_gpu.InterpretGPUParams())
    assert got.shape == (options.get("sets", 1), *shape, features) and got.dtype == jnp.bfloat16

    inputs, kernel, bias, addend = jax.tree.map(lambda x: x.astype(jnp.float32), operands)
    want = conv2d(inputs, kernel, 1, kernel_size // 2, bias=bias, addend=addend, slope=slope)
    # What goes from one part to the next is rounded to 16 bits.
    has_parts = kernel_size == 3 and sum(channels) > 128
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8, atol=3e-2 if has_parts else 2e-3)


def test_kernel_shuffles_as_it_stores():
    from jax.experimental.pallas import mosaic_gpu

    inputs, kernel, bias, _ = example((1, 9, 12), (64,), 256, 3, has_addend=False)
    run = functools.partial(conv_mosaic.run, slope=0.1, sms=4, interpret=mosaic_gpu.InterpretGPUParams())
    got = run(inputs, kernel, bias, None, shuffles=True)
    np.testing.assert_array_equal(got, pixel_shuffle(run(inputs, kernel, bias, None), 2))


def lowered(function, *operands):
    with jax.sharding.use_abstract_mesh(H200):
        return jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("channels", "features", "kernel_size", "kernels"),
    [((64,), 64, 3, 1), ((64, 64), 64, 3, 1), ((576,), 64, 1, 1), ((64,), 3, 3, 1), ((32,), 64, 3, 0)],
)
def test_a_hopper_gpu_takes_the_kernel_where_it_can(channels, features, kernel_size, kernels):
    operands = one(example((2, 12, 20), channels, features, kernel_size))

    def run(inputs, kernel, bias, addend):
        return conv2d(inputs, kernel, 1, kernel_size // 2, bias=bias, addend=addend, slope=0.1)

    program = lowered(run, *operands)
    assert program.count("stablehlo.custom_call @mosaic_gpu") == kernels
    assert ("mosaic_gpu" in program) == bool(kernels)


def test_the_derivative_by_the_input_takes_the_kernel():
    (x,), kernel, bias, _ = one(example((2, 12, 20), (64,), 64, 3))

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(conv2d(x, kernel, bias=bias, slope=0.1).astype(jnp.float32)))(x)

    alone, both = (
        lowered(f, x).count("stablehlo.custom_call @mosaic_gpu")
        for f in (functools.partial(conv2d, kernel=kernel, bias=bias, slope=0.1), gradient)
    )
    assert (alone, both) == (1, 2)


def test_a_stack_is_one_kernel():
    (x,), kernel, bias, _ = example((2, 12, 20), (64,), 64, 3, sets=4, groups=(2,))

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(conv2d(x, kernel, bias=bias, slope=0.1).astype(jnp.float32)))(x)

    assert lowered(gradient, x).count("stablehlo.custom_call @mosaic_gpu") == 2


def test_other_devices_take_xlas_convolution():
    operands = one(example((1, 8, 16), (64,), 64, 3))

    def run(inputs, kernel, bias, addend):
        return conv2d(inputs, kernel, bias=bias, addend=addend)

    assert "mosaic_gpu" not in jax.jit(run).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()
    np.testing.assert_array_equal(run(*operands), jax.jit(run)(*operands))
