"""The plain 2-D convolution, with a derivative that is fast inside loops on a CPU too.

XLA's CPU back end rewrites the two convolutions of a gradient into the form its fast kernels take, but only
outside of loops (seen with jax 0.10.2): inside `lax.scan` they run tens of times slower. There the derivative
is therefore written in that form to begin with.
"""

import functools

import jax

_NHWC = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 1) -> jax.Array:
    """Convolve (that is, correlate) with zero padding.

    Args:
      x: [B, H, W, C].
      kernel: [kh, kw, C, C'], the dtype of x.
      stride: in both directions.
      padding: zeros on each of the four sides.

    Returns:
      [B, H', W', C'], H' = (H + 2 padding - kh) // stride + 1.
    """
    pads = ((padding, padding), (padding, padding))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_NHWC)


def _forward(x, kernel, stride, padding):
    return conv2d(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, residuals, cotangent):
    x, kernel = residuals
    return jax.lax.platform_dependent(
        x,
        kernel,
        cotangent,
        cpu=functools.partial(_backward_as_convolutions, stride, padding),
        default=functools.partial(_backward_of_primitive, stride, padding),
    )


def _backward_of_primitive(stride, padding, x, kernel, cotangent):
    _, vjp = jax.vjp(functools.partial(conv2d.fun, stride=stride, padding=padding), x, kernel)
    return vjp(cotangent)


def _backward_as_convolutions(stride, padding, x, kernel, cotangent):
    """The derivative as convolutions of NHWC images with HWIO kernels."""
    size, out_size = x.shape[1:3], cotangent.shape[1:3]
    # Pixels at the far end that no window reached; negative padding crops.
    rest = [
        n + 2 * padding - (m - 1) * stride - k for n, m, k in zip(size, out_size, kernel.shape, strict=False)
    ]
    d_x = jax.lax.conv_general_dilated(
        cotangent,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        [(k - 1 - padding, k - 1 - padding + r) for k, r in zip(kernel.shape[:2], rest, strict=True)],
        lhs_dilation=(stride, stride),
        dimension_numbers=_NHWC,
    )
    d_kernel = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),  # [C, H, W, B]
        cotangent.transpose(1, 2, 0, 3),  # [H', W', B, C']
        (1, 1),
        [(padding, padding - r) for r in rest],
        rhs_dilation=(stride, stride),
        dimension_numbers=_NHWC,
    )
    return d_x, d_kernel.transpose(1, 2, 0, 3)


conv2d.defvjp(_forward, _backward)
