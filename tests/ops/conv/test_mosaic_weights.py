"""The kernel of Hopper GPUs for weights' gradients: interpreted on a CPU, and lowered for a GPU without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from stvsr_jax.ops.conv import mosaic_weights

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="the kernel is written for Mosaic GPU of jax 0.11 and later"
)
H200 = AbstractMesh(
    (1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu")
)


def example(groups, sets, shape, channels, features, dtype=jnp.bfloat16, seed=0):
    """Returns (x, cotangent)."""
    rng = np.random.default_rng(seed)
    sizes = (groups, *shape, channels), (sets, *shape, features)
    return tuple(jnp.asarray(rng.standard_normal(size), dtype) for size in sizes)


def expected(x, cotangent):
    """Returns the derivative of XLA's convolutions in float32."""
    x, cotangent = x.astype(jnp.float32), cotangent.astype(jnp.float32)

    def convolve(kernel, x):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def differentiate(number):
        inputs = x[number % len(x)]
        kernel = jnp.zeros((3, 3, x.shape[-1], cotangent.shape[-1]))
        return jax.vjp(functools.partial(convolve, x=inputs), kernel)[1](cotangent[number])[0]

    return jnp.stack([differentiate(number) for number in range(len(cotangent))])


@pytest.mark.parametrize(
    ("times", "groups", "sets", "shape", "channels", "features", "dtype", "plan"),
    [
        (1, 1, 1, (2, 8, 8), 64, 64, jnp.float16, None),  # one window of each image
        (1, 1, 2, (2, 19, 13), 64, 64, jnp.bfloat16, None),  # several a program, some reach over the edge
        (1, 2, 4, (1, 5, 9), 64, 64, jnp.bfloat16, None),  # two sets read the same part
        (1, 1, 1, (1, 9, 20), 128, 72, jnp.bfloat16, None),  # the last block is not whole
        (1, 1, 1, (3, 25, 24), 64, 16, jnp.bfloat16, None),  # more windows than stages
        (1, 1, 1, (2, 18, 24), 64, 64, jnp.bfloat16, mosaic_weights.Plan(16, 2, 5)),
        (3, 1, 2, (2, 8, 12), 64, 64, jnp.bfloat16, None),
    ],
)
def test_kernel_equals_the_derivative(times, groups, sets, shape, channels, features, dtype, plan):
    from jax.experimental.pallas import mosaic_gpu

    inputs, cotangents = zip(
        *(example(groups, sets, shape, channels, features, dtype, seed=seed) for seed in range(times)),
        strict=True,
    )
    # So few SMs that a CTA adds several windows.
    got = mosaic_weights.run(inputs, cotangents, sms=3, plan=plan, interpret=mosaic_gpu.InterpretGPUParams())
    assert got.shape == (sets, 3, 3, channels, features) and got.dtype == jnp.float32
    want = sum(expected(*pair) for pair in zip(inputs, cotangents, strict=True))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("channels", "features"), [(64, 64), (128, 216)])
def test_it_can_be_lowered_for_a_hopper_gpu(channels, features):
    operands = example(1, 2, (4, 8, 12), channels, features)
    assert mosaic_weights.is_supported(*operands)

    function = jax.jit(functools.partial(mosaic_weights.run, sms=132))
    with jax.sharding.use_abstract_mesh(H200):
        program = function.trace(*([x] for x in operands)).lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("stablehlo.custom_call @mosaic_gpu") == 1


@pytest.mark.parametrize(
    ("channels", "features", "dtype"), [(32, 64, jnp.bfloat16), (64, 3, jnp.bfloat16), (64, 64, jnp.float32)]
)
def test_what_it_does_not_support(channels, features, dtype):
    assert not mosaic_weights.is_supported(*example(1, 1, (1, 8, 8), channels, features, dtype))


def test_small_problems_take_few_ctas():
    def programs(parts, *shape):
        return mosaic_weights.make_plan(parts, *shape, 132).ctas

    assert programs(1, 224, 32, 32) == 132
    assert programs(4, 112, 32, 32) == 33
    assert programs(4, 112, 8, 8) < 33
    assert programs(1, 1, 8, 8) == 1
    assert programs(200, 112, 32, 32) == 1
