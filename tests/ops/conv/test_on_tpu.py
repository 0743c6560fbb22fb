"""Programs for TPUs hold the kernels, those of other devices do not."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.ops import conv2d, conv2d_kernel_gradient


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


def test_strides_and_stacks_are_left_to_xla():
    assert count_kernels(lambda x, kernel: conv2d(x, kernel, 2), IMAGE, KERNEL) == 0
    assert count_kernels(conv2d, (1, *IMAGE), (2, *KERNEL)) == 0


def test_gradients_are_kernels_too():
    def gradients(x, kernel):
        return jax.grad(lambda *a: conv2d(*a, slope=0.1, shuffle=2).astype(jnp.float32).sum(), (0, 1))(
            x, kernel
        )

    assert count_kernels(gradients, IMAGE, KERNEL) == 3  # value, input, kernel

    def of_loop(x, kernel, g):
        return conv2d_kernel_gradient((x,), kernel, g)

    assert count_kernels(of_loop, (3, *IMAGE), KERNEL, (3, *IMAGE)) == 1
