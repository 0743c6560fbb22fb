"""Convolution with its prologue and epilogue: concatenated inputs, bias, addend, ReLU, pixel shuffle.

On an NVIDIA Hopper GPU one kernel does all of it (`mosaic.py`). Elsewhere it is XLA's convolution (`xla.py`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from stvsr_jax.ops.conv import on_tpu, xla
from stvsr_jax.ops.conv.xla import Options
from stvsr_jax.ops.devices import (
    check_implementation,
    count_mosaic_sms,
    require_mosaic,
    require_support,
)
from stvsr_jax.ops.shuffle import pixel_shuffle, pixel_unshuffle

IMPLEMENTATIONS = ("xla", "pallas_mosaic", "pallas_tpu")


def conv2d(
    inputs: jax.Array | tuple[jax.Array, ...],
    kernel: jax.Array,
    stride: int = 1,
    padding: int = 1,
    *,
    bias: jax.Array | None = None,
    addend: jax.Array | None = None,
    slope: float | None = None,
    shuffle: int = 1,
    implementation: str | None = None,
) -> jax.Array:
    """Convolves (that is, correlates) with zero padding: ReLU(conv(inputs) + bias + addend).

    S convolutions of one shape can be one call: all arrays have one more axis in front.

    Args:
      inputs: [B, H, W, C], or several [B, H, W, C_i], concatenated along the channels. With S kernels each is
        [G_i, B, H, W, C_i], G_i a divisor of S, and kernel s reads part s % G_i.
      kernel: [kh, kw, C, C'] in the dtype of the inputs, or S kernels [S, kh, kw, C, C'].
      stride: in both directions.
      padding: zeros on each of the four sides.
      bias: [C'], with S kernels [S, C'], or None.
      addend: [B, H', W', C'], with S kernels [S, B, H', W', C'], or None.
      slope: negative slope of the leaky ReLU, also its derivative at zero, as in PyTorch; 0 is ReLU, None is linear.
      shuffle: factor of a `pixel_shuffle` of the result.
      implementation: a name in `IMPLEMENTATIONS`. None: 'pallas_mosaic' on an NVIDIA Hopper GPU or 'pallas_tpu' on a
        TPU, if they support the arguments; otherwise 'xla'. Gradients that a kernel cannot make are left to XLA.

    Returns:
      [B, H', W', C'] in the dtype of the inputs, H' = (H + 2 padding - kh) // stride + 1. With S kernels
      [S, B, H', W', C']. Shuffled [.., shuffle H', shuffle W', C' / shuffle**2].

    Raises:
      ValueError: unknown implementation.
      NotImplementedError: the implementation cannot run these arguments, or not on this device.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    options = Options(stride, padding, slope, shuffle, implementation)
    _check_implementation(inputs, kernel, addend, options)
    if implementation in (None, "pallas_tpu") and on_tpu.has_kernels(inputs, kernel, addend, options):
        return on_tpu.convolve(options, inputs, kernel, bias, addend)
    return _conv2d(inputs, kernel, bias, addend, options)


def _check_implementation(inputs, kernel, addend, options):
    name = options.implementation
    check_implementation("conv2d", name, IMPLEMENTATIONS)
    if name == "pallas_tpu":
        is_supported = on_tpu.has_kernels(inputs, kernel, addend, options)
        require_support("conv2d", name, is_supported, *inputs, kernel)
    if name == "pallas_mosaic":
        require_mosaic("conv2d")
        from stvsr_jax.ops.conv import mosaic

        is_supported = mosaic.is_supported(inputs, kernel, options.stride, options.padding)
        require_support("conv2d", name, is_supported, *inputs, kernel)


def conv2d_deferred(
    inputs: tuple[jax.Array, ...],
    kernel: jax.Array,
    stride: int,
    padding: int,
    *,
    probe: jax.Array | None,
    bias: jax.Array | None = None,
    addend: jax.Array | None = None,
    slope: float | None = None,
) -> jax.Array:
    """Convolves like `conv2d`; the gradient w.r.t. the kernel is left to the caller.

    The gradient w.r.t. `probe` is the one w.r.t. conv(inputs) + bias + addend. `conv2d_kernel_gradient` makes the
    kernel's from it, for many calls at once. See `ops.scan`. The other arguments are those of `conv2d`.

    Args:
      probe: shape and dtype of the result; its values are not read. None: no gradient is taken.

    Raises:
      NotImplementedError: a gradient w.r.t. the kernel is asked for.
    """
    options = Options(stride, padding, slope)
    return _conv2d_deferred(inputs, kernel, bias, addend, probe, options)


def conv2d_kernel_gradient(
    inputs: tuple[jax.Array, ...],
    kernel: jax.Array,
    cotangent: jax.Array,
    stride: int = 1,
    padding: int = 1,
) -> jax.Array:
    """Returns the gradient w.r.t. the kernel of T convolutions, reduced over T.

    Args:
      inputs: as of `conv2d` with T in front, [T, B, H, W, C_i] or [T, G_i, B, H, W, C_i].
      kernel: as of `conv2d`.
      cotangent: of the T results, [T, B, H', W', C'] or [T, S, B, H', W', C'].
      stride: in both directions.
      padding: zeros on each of the four sides.

    Returns:
      Shape and dtype of the kernel.
    """
    options = Options(stride, padding)
    functions = {
        "cpu": functools.partial(xla.reduce_kernel_gradient, options, on_cpu=True),
        "default": functools.partial(xla.reduce_kernel_gradient, options),
    }
    if (sms := count_mosaic_sms()) is not None:
        functions["cuda"] = functools.partial(_reduce_kernel_gradient_by_mosaic, options, sms)
    return jax.lax.platform_dependent(inputs, kernel, cotangent, **functions)


def prefers_stacks(dtype: Any) -> bool:
    """Returns whether S convolutions are faster as one call than one after the other: where one kernel runs all."""
    return jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16) and count_mosaic_sms() is not None


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _conv2d(inputs, kernel, bias, addend, options):
    return _run(inputs, kernel, bias, addend, options)


def _forward(inputs, kernel, bias, addend, options):
    out = _run(inputs, kernel, bias, addend, options)
    return out, (inputs, kernel, bias, None if options.slope is None else out, addend is not None)


def _backward(options, residuals, cotangent):
    inputs, kernel, bias, out, has_addend = residuals
    cotangent = _undo_epilogue(options, out, cotangent)
    d_inputs, d_kernel = _differentiate(options, inputs, kernel, cotangent)
    return d_inputs, d_kernel, _bias_gradient(bias, cotangent), cotangent if has_addend else None


_conv2d.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _conv2d_deferred(inputs, kernel, bias, addend, probe, options):
    del probe
    return _run(inputs, kernel, bias, addend, options)


def _forward_deferred(inputs, kernel, bias, addend, probe, options):
    if kernel.perturbed:
        raise NotImplementedError("conv2d_deferred: the gradient w.r.t. the kernel is conv2d_kernel_gradient")
    has_addend, has_probe = addend is not None, probe is not None
    inputs, kernel, bias, addend = jax.tree.map(lambda x: x.value, (inputs, kernel, bias, addend))
    out = _run(inputs, kernel, bias, addend, options)
    return out, (inputs, kernel, bias, None if options.slope is None else out, has_addend, has_probe)


def _backward_deferred(options, residuals, cotangent):
    inputs, kernel, bias, out, has_addend, has_probe = residuals
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        cotangent = jnp.zeros(cotangent.shape, cotangent.dtype)
    cotangent = _undo_epilogue(options, out, cotangent)
    d_inputs, _ = _differentiate(options, inputs, kernel, cotangent, needs_kernel=False)
    d_addend, d_probe = (cotangent if has else None for has in (has_addend, has_probe))
    return d_inputs, None, _bias_gradient(bias, cotangent), d_addend, d_probe


_conv2d_deferred.defvjp(_forward_deferred, _backward_deferred, symbolic_zeros=True)


def _undo_epilogue(options, out, cotangent):
    """Returns the cotangent of conv(inputs) + bias + addend."""
    if out is not None:
        cotangent = jnp.where(out > 0, cotangent, options.slope * cotangent)
    return pixel_unshuffle(cotangent, options.shuffle) if options.shuffle > 1 else cotangent


def _bias_gradient(bias, cotangent):
    return None if bias is None else jnp.sum(cotangent, axis=(-4, -3, -2)).astype(bias.dtype)


def _differentiate(options, inputs, kernel, cotangent, needs_kernel=True):
    """Returns the gradients w.r.t. inputs and kernel; the kernel's may be anything if it is not needed."""
    options = options._replace(slope=None, shuffle=1)
    each = functools.partial(_differentiate_each_input, options, needs_kernel)
    functions = {"default": functools.partial(each, None)}
    if xla.can_differentiate_as_convolutions(kernel, options):
        functions["cpu"] = functools.partial(xla.differentiate_as_convolutions, options)
    if (sms := _count_sms(options)) is not None:
        functions["cuda"] = functools.partial(each, sms)
    return jax.lax.platform_dependent(inputs, kernel, cotangent, **functions)


def _differentiate_each_input(options, needs_kernel, sms, inputs, kernel, cotangent):
    """Differentiates XLA's convolution; kernels stand in where they can run."""
    d_inputs, d_kernels = [], []
    for x, part in zip(inputs, xla.split(kernel, inputs, axis=-2), strict=True):
        d_x, d_kernel = xla.differentiate(options, x, part, cotangent)
        if xla.is_same_size(kernel, options):
            d_x = _run(*xla.transpose(x, part, cotangent), None, None, options)
        by_mosaic = _reduce_by_mosaic([x], [cotangent], options, sms) if needs_kernel else None
        d_inputs.append(d_x)
        d_kernels.append(d_kernel if by_mosaic is None else by_mosaic)
    return tuple(d_inputs), jnp.concatenate(d_kernels, axis=-2)


def _run(inputs, kernel, bias, addend, options):
    return _run_on_any_platform(inputs, kernel, bias, addend, options, _count_sms(options))


def _count_sms(options):
    """Returns the number of SMs if Mosaic kernels may run, otherwise None."""
    return None if options.implementation == "xla" else count_mosaic_sms()


# Traced and lowered once for equal shapes.
@functools.partial(jax.jit, static_argnames=("options", "sms"))
def _run_on_any_platform(inputs, kernel, bias, addend, options, sms):
    functions = {"default": functools.partial(xla.run, options)}
    if sms is not None:
        from stvsr_jax.ops.conv import mosaic  # imports Mosaic, which only Hopper GPUs need

        if mosaic.is_supported(inputs, kernel, options.stride, options.padding):
            run = functools.partial(mosaic.run, slope=options.slope, sms=sms)
            functions["cuda"] = functools.partial(_run_mosaic, run, options)
            if options.implementation == "pallas_mosaic":
                return functions["cuda"](inputs, kernel, bias, addend)
    return jax.lax.platform_dependent(inputs, kernel, bias, addend, **functions)


def _run_mosaic(run, options, *operands):
    # The kernel's store shuffles whole chunks of 64 channels; other results are shuffled by XLA.
    shuffles = options.shuffle == 2 and operands[1].shape[-1] % 256 == 0
    is_stack = operands[1].ndim == 5
    operands = operands if is_stack else jax.tree.map(lambda x: x[None], operands)
    y = run(*operands, shuffles=shuffles)
    y = y if is_stack else y[0]
    return y if shuffles else pixel_shuffle(y, options.shuffle)


def _reduce_kernel_gradient_by_mosaic(options, sms, inputs, kernel, cotangent):
    """Reads the T parts where they lie if it can: to concatenate them would cost more than the reduction itself."""
    cotangents, gradients = list(cotangent), []
    for x, part in zip(inputs, xla.split(kernel, inputs, axis=-2), strict=True):
        if xla.is_product(kernel, options):
            each = [xla.differentiate(options, a, part, b)[1] for a, b in zip(x, cotangents, strict=True)]
            gradient = sum(g.astype(jnp.float32) for g in each).astype(part.dtype)
        else:
            gradient = _reduce_by_mosaic(list(x), cotangents, options, sms)
        if gradient is None:
            gradient = xla.reduce_kernel_gradient(options, (x,), part, cotangent)
        gradients.append(gradient)
    return jnp.concatenate(gradients, axis=-2)


def _reduce_by_mosaic(inputs, cotangents, options, sms):
    """Returns the gradient w.r.t. a 3x3 kernel of T convolutions, or None if the Mosaic kernel cannot run."""
    if sms is None or (options.stride, options.padding) != (1, 1):
        return None
    from stvsr_jax.ops.conv import mosaic_weights

    heights = [x.shape[-3] for x in (inputs[0], cotangents[0])]
    if heights[0] != heights[1] or not mosaic_weights.is_supported(inputs[0], cotangents[0]):
        return None
    return _call_mosaic_weights(inputs, cotangents, sms)


# Traced and lowered once for equal shapes.
@functools.partial(jax.jit, static_argnames="sms")
def _call_mosaic_weights(inputs, cotangents, sms):
    from stvsr_jax.ops.conv import mosaic_weights

    is_stack = inputs[0].ndim == 5
    inputs, cotangents = jax.tree.map(lambda x: x if is_stack else x[None], (inputs, cotangents))
    gradient = mosaic_weights.run(inputs, cotangents, sms=sms)
    return (gradient if is_stack else gradient[0]).astype(inputs[0].dtype)
