"""The kernel of Hopper GPUs: interpreted on a CPU against the definition, and lowered for a GPU without one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from stvsr_jax import ops

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="the kernel is written for Mosaic GPU of jax 0.11 and later"
)
H100 = AbstractMesh(
    (1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=AbstractDevice("NVIDIA H100", 132, "gpu")
)


def example(shape, dtype=jnp.bfloat16, spread=3.0):
    """Returns (x, head, kernel, bias) of S convolutions of B images: shape is (S, B, H, W)."""
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0):
        return jnp.asarray(scale * rng.standard_normal(shape), dtype)

    kernel = draw(shape[0], 1, 1, 9 * 64, 64, scale=0.04)
    return draw(*shape, 64), draw(*shape, 27 * 8, scale=spread), kernel, draw(shape[0], 64)


@pytest.mark.parametrize("slope", [None, 0.1])
@pytest.mark.parametrize(
    ("shape", "dtype", "spread"),
    [
        ((1, 1, 8, 16), jnp.bfloat16, 0.3),
        ((2, 1, 9, 13), jnp.bfloat16, 3.0),  # the last block is not full
        ((1, 3, 7, 9), jnp.float16, 20.0),  # several images, most samples beyond the border
    ],
)
def test_kernel_equals_the_definition(shape, dtype, spread, slope):
    from jax.experimental.pallas import mosaic_gpu

    from stvsr_jax.ops.deform_conv import mosaic as deform_conv_mosaic

    x, head, kernel, bias = example(shape, dtype, spread)
    options = dict(slope=slope, sms=1, interpret=mosaic_gpu.InterpretGPUParams())
    got = deform_conv_mosaic.run(x, head, kernel[:, 0, 0], bias, **options)
    assert got.shape == x.shape and got.dtype == dtype
    operands = (a.astype(jnp.float32) for a in (x, head, kernel, bias))
    want = ops.deform_conv2d_of_head(*operands, groups=8, slope=slope)
    assert np.linalg.norm(got.astype(jnp.float32) - want) < 4e-3 * np.linalg.norm(want)


def lower(function, *operands):
    with jax.sharding.use_abstract_mesh(H100):
        return jax.jit(function).trace(*operands).lower(lowering_platforms=("cuda",)).as_text()


def count_kernels(text, kind):
    return len(re.findall(f"custom_call @\\S*{kind}", text))


@pytest.mark.parametrize("is_stack", [True, False])
def test_without_a_derivative_one_kernel_does_all(is_stack):
    operands = example((2, 1, 8, 16))
    operands = operands if is_stack else jax.tree.map(lambda a: a[0], operands)

    def run(*operands):
        return ops.deform_conv2d_of_head(*operands, groups=8, slope=0.1)

    text = lower(run, *operands)
    assert count_kernels(text, "mosaic_gpu") == 1 and count_kernels(text, "triton") == 0

    def loss(*operands):
        return jnp.sum(run(*operands).astype(jnp.float32) ** 2)

    text = lower(jax.grad(loss, argnums=(0, 1, 2, 3)), *operands)
    assert count_kernels(text, "triton") == 2  # the samples and their derivative


def test_what_the_kernel_cannot_run_is_made_of_two_parts():
    x, head, kernel, bias = example((1, 1, 8, 16))
    for operands, groups in (
        ((x[..., :32], head, kernel[..., : 9 * 32, :], bias), 8),
        ((x, head[..., : 27 * 4], kernel, bias), 4),
        ((x, head, kernel[..., :16], bias[..., :16]), 8),
    ):
        text = lower(lambda *a, g=groups: ops.deform_conv2d_of_head(*a, groups=g), *operands)
        assert count_kernels(text, "triton") == 1
