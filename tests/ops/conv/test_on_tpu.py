"""Programs for TPUs hold the kernels, those of other devices do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.ops import conv2d
from stvsr_jax.ops.conv import on_tpu
from stvsr_jax.ops.conv.xla import Options


def count_kernels(function, *shapes, platform="tpu"):
    device = AbstractDevice(device_kind="any", num_cores=None, platform=platform)
    arrays = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes]
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
        traced = jax.jit(function).trace(*arrays)
    return traced.lower(lowering_platforms=(platform,)).as_text().count("tpu_custom_call")


IMAGE, KERNEL = (1, 8, 8, 16), (3, 3, 16, 16)


def test_a_3x3_convolution_is_one_kernel_on_a_tpu_alone():
    assert count_kernels(conv2d, IMAGE, KERNEL) == 1
    assert count_kernels(conv2d, IMAGE, KERNEL, platform="cpu") == 0


def test_a_stride_of_two_takes_every_second_pixel():
    assert count_kernels(lambda x, kernel: conv2d(x, kernel, 2), IMAGE, KERNEL) == 2
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(2, 6, 8, 3), (3, 3, 3, 8)])
    found = on_tpu.convolve(Options(2, 1, 0.1), (x,), kernel, None, None)
    np.testing.assert_allclose(found, conv2d(x, kernel, 2, slope=0.1), rtol=1e-5, atol=1e-5)


def test_odd_sizes_and_stacks_are_left_to_xla():
    assert count_kernels(lambda x, kernel: conv2d(x, kernel, 2), (1, 7, 8, 16), KERNEL) == 0
    assert count_kernels(conv2d, (1, *IMAGE), (2, *KERNEL)) == 0


def test_a_stride_of_two_with_an_addend_or_a_shuffle_is_left_to_xla():
    def with_addend(x, kernel, addend):
        return conv2d(x, kernel, 2, addend=addend)

    assert count_kernels(with_addend, IMAGE, KERNEL, (1, 4, 4, 16)) == 0
    assert count_kernels(lambda x, kernel: conv2d(x, kernel, 2, shuffle=2), IMAGE, KERNEL) == 0
    with pytest.raises(NotImplementedError, match="pallas_tpu"):
        count_kernels(
            lambda x, kernel: conv2d(x, kernel, 2, shuffle=2, implementation="pallas_tpu"), IMAGE, KERNEL
        )


def test_gradients_are_kernels_too():
    def gradients(x, kernel):
        return jax.grad(lambda *a: conv2d(*a, slope=0.1, shuffle=2).astype(jnp.float32).sum(), (0, 1))(
            x, kernel
        )

    assert count_kernels(gradients, IMAGE, KERNEL) == 3  # value, input, kernel


@pytest.mark.parametrize("slope, shuffle, has_rest", [(0.1, 2, False), (0.0, 1, True), (None, 1, False)])
def test_what_is_kept_for_gradients_gives_those_of_the_convolution(slope, shuffle, has_rest):
    rng = np.random.default_rng(0)
    inputs = tuple(jnp.asarray(rng.normal(size=(2, 6, 5, c)), jnp.float32) for c in (3, 8))
    kernel, bias, addend = (
        jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(3, 3, 11, 16), (16,), (2, 6, 5, 16)]
    )
    rest = (bias, addend) if has_rest else (None, None)
    y, vjp = jax.vjp(lambda *a: on_tpu.run(Options(1, 1, slope, shuffle), *a), inputs, kernel, *rest)
    epilogue = dict(slope=slope, shuffle=shuffle)
    want, vjp_wanted = jax.vjp(
        lambda x, k, b, a: conv2d(x, k, bias=b, addend=a, **epilogue), inputs, kernel, *rest
    )
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    cotangent = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    found = jax.tree.leaves(vjp(cotangent))
    for a, b in zip(found, jax.tree.leaves(vjp_wanted(cotangent)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_gradients_keep_no_array_of_channels_last():
    _, residuals = jax.eval_shape(
        lambda x, k, b: on_tpu.run.fwd(Options(1, 1, 0.1), (x,), k, b, None),
        *(jnp.zeros(s, jnp.bfloat16) for s in [(2, 4, 8, 16), (3, 3, 16, 32), (32,)]),
    )
    kept = {(x.shape, x.dtype.name) for x in jax.tree.leaves(residuals)}
    assert kept == {
        ((16, 64), "bfloat16"),
        ((32, 64), "bool"),
        ((3, 3, 16, 32), "bfloat16"),
        ((32,), "bfloat16"),
    }
