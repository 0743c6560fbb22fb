"""Where the convolution takes the kernels of `tpu`: these come with all of Mosaic, which no other device needs."""

import jax
import jax.numpy as jnp

from stvsr_jax.ops.devices import takes_tpu_kernels
from stvsr_jax.ops.shuffle import pixel_shuffle


def has_kernels(inputs: tuple[jax.Array, ...], kernel: jax.Array, stride: int, padding: int) -> bool:
    """Returns whether what is traced now runs on a TPU, and its kernels can run this convolution."""
    if not takes_tpu_kernels():
        return False
    from stvsr_jax.ops.conv import tpu

    return tpu.is_supported(inputs, kernel, stride, padding)


def run(
    inputs: tuple[jax.Array, ...],
    kernel: jax.Array,
    bias: jax.Array | None,
    addend: jax.Array | None,
    *,
    slope: float | None,
    shuffle: int,
) -> jax.Array:
    """Runs the convolution; see `ops.conv2d`."""
    from stvsr_jax.ops.conv import tpu

    return pixel_shuffle(tpu.run(inputs, kernel, bias, addend, slope=slope), shuffle)


def run_backward(
    inputs: tuple[jax.Array, ...], kernel: jax.Array, cotangent: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Returns the gradients of inputs and kernel."""
    from stvsr_jax.ops.conv import tpu

    return tpu.run_backward(inputs, kernel, cotangent)


def kernel_gradient(inputs: tuple[jax.Array, ...], kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Returns the gradient of the kernel from T convolutions; see `ops.conv2d_kernel_gradient`."""
    inputs, cotangent = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (inputs, cotangent))
    from stvsr_jax.ops.conv import tpu

    gradients = [tpu.run_kernel_gradient(x, cotangent) for x in inputs]
    return jnp.concatenate(gradients, axis=2).astype(kernel.dtype)
