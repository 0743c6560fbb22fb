"""The 3x3 convolution of a program for TPUs, with its gradients.

What the backward pass reads is kept with the pixels along the lanes, of the ReLU only where it was positive. The kernels
of `tpu` come with all of Mosaic, which no other device needs; they are imported where a program takes them.
"""

import functools

import jax
import jax.numpy as jnp

from stvsr_jax.ops.conv import xla
from stvsr_jax.ops.conv.xla import Options
from stvsr_jax.ops.devices import takes_tpu_kernels
from stvsr_jax.ops.lanes import from_lanes, to_lanes
from stvsr_jax.ops.resize import on_tpu as resize_on_tpu
from stvsr_jax.ops.shuffle import pixel_shuffle, pixel_unshuffle


def has_kernels(
    inputs: tuple[jax.Array, ...], kernel: jax.Array, addend: jax.Array | None, options: Options
) -> bool:
    """Returns whether what is traced now runs on a TPU, and its kernels can run this convolution."""
    if not takes_tpu_kernels():
        return False
    from stvsr_jax.ops.conv import tpu

    if options.stride == 2:
        # The pixels that are kept are chosen last: an addend and a pixel shuffle would have other sizes.
        if addend is not None or options.shuffle > 1 or any(n % 2 for n in inputs[0].shape[-3:-1]):
            return False
        return kernel.shape[-1] % 8 == 0 and has_kernels(inputs, kernel, None, options._replace(stride=1))
    return tpu.is_supported(inputs, kernel, options.stride, options.padding)


def convolve(
    options: Options,
    inputs: tuple[jax.Array, ...],
    kernel: jax.Array,
    bias: jax.Array | None,
    addend: jax.Array | None,
) -> jax.Array:
    """Runs the convolution, one that `has_kernels`; see `ops.conv2d`.

    With stride 2 the kernel makes all pixels, four times as many. XLA takes ten times as long to compile that convolution
    and its gradients.
    """
    if options.stride == 1:
        return run(options, inputs, kernel, bias, addend)
    return resize_on_tpu.halve(run(options._replace(stride=1), inputs, kernel, bias, None))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(
    options: Options,
    inputs: tuple[jax.Array, ...],
    kernel: jax.Array,
    bias: jax.Array | None,
    addend: jax.Array | None,
) -> jax.Array:
    """Runs the convolution, by the kernels where it is lowered for a TPU; see `ops.conv2d`."""
    return _run(inputs, kernel, bias, addend, options=options)


# Traced and lowered once for equal shapes.
@functools.partial(jax.jit, static_argnames="options")
def _run(inputs, kernel, bias, addend, options):
    def by_kernels(inputs, kernel, bias, addend):
        from stvsr_jax.ops.conv import tpu

        shape = inputs[0].shape[:3]
        addend = None if addend is None else to_lanes(addend)
        y = tpu.run(shape[1:], [to_lanes(x) for x in inputs], kernel, bias, addend, slope=options.slope)
        return pixel_shuffle(from_lanes(y, shape), options.shuffle)

    plain = functools.partial(xla.run, options)
    return jax.lax.platform_dependent(inputs, kernel, bias, addend, tpu=by_kernels, default=plain)


def _forward(options, inputs, kernel, bias, addend):
    y = run(options, inputs, kernel, bias, addend)
    is_positive = None if options.slope is None else to_lanes(pixel_unshuffle(y, options.shuffle)) > 0
    has_addend = None if addend is None else ()
    return y, (tuple(map(to_lanes, inputs)), kernel, bias, is_positive, has_addend)


def _backward(options, residuals, cotangent):
    inputs, kernel, bias, is_positive, has_addend = residuals
    cotangent = pixel_unshuffle(cotangent, options.shuffle)
    shape, cotangent = cotangent.shape[:3], to_lanes(cotangent)
    if is_positive is not None:
        cotangent = jnp.where(is_positive, cotangent, options.slope * cotangent)
    d_inputs, d_kernel = _differentiate(inputs, kernel, cotangent, shape=shape)
    d_bias = None if bias is None else jnp.sum(cotangent, axis=1, dtype=jnp.float32).astype(bias.dtype)
    d_addend = None if has_addend is None else from_lanes(cotangent, shape)
    return tuple(from_lanes(d, shape) for d in d_inputs), d_kernel, d_bias, d_addend


run.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnames="shape")
def _differentiate(inputs, kernel, cotangent, shape):
    """Returns the gradients of inputs [C_i, P] and kernel."""

    def by_kernels(inputs, kernel, cotangent):
        from stvsr_jax.ops.conv import tpu

        return tpu.run_backward(shape[1:], inputs, kernel, cotangent)

    def by_xla(inputs, kernel, cotangent):
        images = tuple(from_lanes(x, shape) for x in inputs)
        d_images, d_kernel = xla.differentiate_as_convolutions(
            Options(1, 1), images, kernel, from_lanes(cotangent, shape)
        )
        return tuple(map(to_lanes, d_images)), d_kernel

    return jax.lax.platform_dependent(inputs, kernel, cotangent, tpu=by_kernels, default=by_xla)
