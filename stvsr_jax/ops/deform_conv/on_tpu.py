"""The deformable convolution of a program for TPUs, with its gradients.

What the backward pass reads is kept with the pixels along the lanes, of the ReLU only where it was positive. The VJP
stands around the choice of a platform: the VJP of the choice itself would keep what each of its branches needs, of
gathers that never run too.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from stvsr_jax.ops.lanes import from_lanes, to_lanes

# Of (x, head, kernel, bias).
Convolution = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def is_supported(x: jax.Array, head: jax.Array, kernel: jax.Array) -> bool:
    """Returns whether the kernels can run this convolution; arguments as of `run`."""
    from stvsr_jax.ops.deform_conv import tpu_windows  # imports Mosaic, which other devices do not need

    return tpu_windows.is_supported(x, head, kernel[..., 0, 0, :, :])


# Traced and lowered once for equal shapes.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(
    plain: Convolution, slope: float | None, x: jax.Array, head: jax.Array, kernel: jax.Array, bias: jax.Array
) -> jax.Array:
    """Returns ReLU(plain(x, head, kernel, bias)) by the kernels where it is lowered for a TPU.

    Args:
      plain: the linear convolution, for other platforms.
      slope: negative slope of the ReLU, None: linear.
      x: [B, H, W, C].
      head: [B, H, W, 27 G].
      kernel: [1, 1, 9 C, C'].
      bias: [C'].

    Returns:
      [B, H, W, C'].
    """
    y = jax.lax.platform_dependent(x, head, kernel, bias, tpu=_run_kernels, default=plain)
    return y if slope is None else jnp.maximum(y, slope * y)


def _run_kernels(x, head, kernel, bias):
    from stvsr_jax.ops.deform_conv import tpu_windows

    y = tpu_windows.run(x.shape[1:3], to_lanes(x), to_lanes(head), kernel[0, 0])
    return from_lanes(y, x.shape[:3]) + bias


def _forward(plain, slope, x, head, kernel, bias):
    y = run(plain, slope, x, head, kernel, bias)
    is_positive = None if slope is None else to_lanes(y) > 0
    return y, (to_lanes(x), to_lanes(head), kernel, bias, is_positive)


def _backward(plain, slope, residuals, cotangent):
    *operands, bias, is_positive = residuals
    shape, cotangent = cotangent.shape[:3], to_lanes(cotangent)
    if is_positive is not None:
        cotangent = jnp.where(is_positive, cotangent, slope * cotangent)

    def by_kernels(x, head, kernel, cotangent):
        from stvsr_jax.ops.deform_conv import tpu_windows

        gradients = tpu_windows.run_backward(shape[1:], x, head, kernel[0, 0], cotangent)
        return *gradients[:2], gradients[2][None, None]

    def by_definition(x, head, kernel, cotangent):
        images = (from_lanes(a, shape) for a in (x, head))
        _, vjp = jax.vjp(lambda *a: plain(*a, bias), *images, kernel)
        d_x, d_head, d_kernel = vjp(from_lanes(cotangent, shape))
        return to_lanes(d_x), to_lanes(d_head), d_kernel

    d_x, d_head, d_kernel = jax.lax.platform_dependent(
        *operands, cotangent, tpu=by_kernels, default=by_definition
    )
    d_bias = jnp.sum(cotangent, axis=1, dtype=jnp.float32).astype(bias.dtype)
    return from_lanes(d_x, shape), from_lanes(d_head, shape), d_kernel, d_bias


run.defvjp(_forward, _backward)
