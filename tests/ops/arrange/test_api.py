"""Joining and reordering of images, also by the kernel of Hopper GPUs interpreted on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from stvsr_jax.ops.arrange.api import _arrange_by_kernel, arrange

needs_mosaic = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="the kernel is written for Mosaic GPU of jax 0.11 and later"
)
H200 = AbstractMesh(
    (1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu")
)


def stack(*arrays):
    return jnp.stack(arrays)


def repeat_and_concatenate(a, b):
    return jnp.concatenate([jnp.broadcast_to(a, b.shape), b])


def turn_round_and_join(x):
    x = x.swapaxes(0, 1)
    return jnp.concatenate([x, x[::-1]], axis=1)


# A function and the shapes of its arrays. The last two have several blocks.
CASES = {
    "stack": (stack, [(2, 4, 8, 64), (2, 4, 8, 64)]),
    "three arrays": (stack, [(1, 3, 5, 64)] * 3),
    "repeat and concatenate": (repeat_and_concatenate, [(1, 2, 9, 20, 64), (3, 2, 9, 20, 64)]),
    "one array": (turn_round_and_join, [(2, 3, 24, 20, 128)]),
}


def example(case, dtype=jnp.bfloat16):
    function, shapes = CASES[case]
    rng = np.random.default_rng(0)
    return function, [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def by_kernel(function, *arrays):
    from jax.experimental.pallas import mosaic_gpu

    # So few sms that programs copy several blocks.
    return _arrange_by_kernel(function, arrays, 1, mosaic_gpu.InterpretGPUParams())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_images_are_where_the_function_puts_them(case, dtype):
    function, arrays = example(case, dtype)
    got = jax.jit(lambda *arrays: arrange(function, *arrays))(*arrays)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, function(*arrays))


@needs_mosaic
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_copies_the_same(case):
    function, arrays = example(case)
    got = by_kernel(function, *arrays)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, function(*arrays))


@needs_mosaic
def test_the_gradient_goes_back_to_where_images_came_from():
    function, arrays = example("repeat and concatenate")
    want, wanted = jax.vjp(function, *arrays)
    _, vjp = jax.vjp(lambda *arrays: by_kernel(function, *arrays), *arrays)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(want.shape), want.dtype)
    for got, gradient in zip(vjp(cotangent), wanted(cotangent), strict=True):
        np.testing.assert_array_equal(got, gradient)


@needs_mosaic
@pytest.mark.parametrize(
    ("shape", "dtype", "kernels"),
    [((4, 8, 64), jnp.bfloat16, 1), ((4, 8, 64), jnp.float32, 0), ((3, 5, 24), jnp.bfloat16, 0)],
)
def test_a_hopper_gpu_takes_the_kernel_where_it_can(shape, dtype, kernels):
    arrays = [jnp.zeros((2, *shape), dtype)] * 2
    with jax.sharding.use_abstract_mesh(H200):
        traced = jax.jit(lambda *arrays: arrange(stack, *arrays)).trace(*arrays)
        program = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("stablehlo.custom_call @mosaic_gpu") == kernels


@needs_mosaic
@pytest.mark.parametrize(("lines", "size"), [(57600, 128), (560, 112), (3600, 120), (35, 35), (131, 1)])
def test_images_are_cut_into_whole_blocks(lines, size):
    from stvsr_jax.ops.arrange import mosaic as arrange_mosaic

    assert arrange_mosaic.lines_of_block(lines) == size
    assert arrange_mosaic.is_supported([jnp.zeros((1, lines, 1, 64), jnp.bfloat16)]) == (size >= 16)
