"""The plain convolution with what comes before and after it: joined inputs, bias, sum, rectifier.

On an NVIDIA Hopper GPU one kernel does all of it where it can (`conv_mosaic`); elsewhere it is XLA's convolution.

XLA's CPU back end rewrites the two convolutions of a gradient into the form its fast kernels take, but only
outside of loops (seen with jax 0.10.2): inside `lax.scan` they run tens of times slower. There the derivative
is therefore written in that form to begin with.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.ops.devices import allows_kernels, count_hopper_multiprocessors

_NHWC = ("NHWC", "HWIO", "NHWC")


class _Options(NamedTuple):
    """What is known when the program is traced."""

    stride: int
    padding: int
    slope: float | None = None


def conv2d(
    inputs: jax.Array | tuple[jax.Array, ...],
    kernel: jax.Array,
    stride: int = 1,
    padding: int = 1,
    *,
    bias: jax.Array | None = None,
    addend: jax.Array | None = None,
    slope: float | None = None,
    tap: jax.Array | None = None,
) -> jax.Array:
    """Convolve (that is, correlate) with zero padding: rectify(conv(inputs) + bias + addend).

    Several convolutions of one shape may be one call: all arrays have one more axis in front. That is faster than one
    after the other only where `prefers_stacks` says so.

    Args:
      inputs: [B, H, W, C], or several [B, H, W, C_i] that are joined along the channels. With S kernels each is
        [G_i, B, H, W, C_i], G_i a divisor of S, and kernel s reads the part s % G_i.
      kernel: [kh, kw, C, C'], the dtype of the inputs, or S kernels [S, kh, kw, C, C'].
      stride: in both directions.
      padding: zeros on each of the four sides.
      bias: [C'], with S kernels [S, C'], or None.
      addend: [B, H', W', C'], with S kernels [S, B, H', W', C'], or None.
      slope: of the rectifier where its input is negative; its derivative at zero is this slope, as in PyTorch. None:
        no rectifier.
      tap: like the result, or None. It is not read; its gradient is that of the rectifier's input.

    Returns:
      [B, H', W', C'], H' = (H + 2 padding - kh) // stride + 1, with S kernels [S, B, H', W', C'].
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    return _conv2d(inputs, kernel, bias, addend, tap, _Options(stride, padding, slope))


def prefers_stacks(dtype: Any) -> bool:
    """Return whether what is traced now should run convolutions of one shape as one: where one kernel can."""
    return jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16) and _multiprocessors() is not None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _conv2d(inputs, kernel, bias, addend, tap, options):
    del tap
    return _run(inputs, kernel, bias, addend, options)


def _forward(inputs, kernel, bias, addend, tap, options):
    out = _run(inputs, kernel, bias, addend, options)
    given = [() if x is not None else None for x in (addend, tap)]
    return out, (inputs, kernel, bias, None if options.slope is None else out, given)


def _backward(options, residuals, cotangent):
    inputs, kernel, bias, out, given = residuals
    if out is not None:
        cotangent = jnp.where(out > 0, cotangent, options.slope * cotangent)
    d_bias = None if bias is None else jnp.sum(cotangent, axis=(-4, -3, -2)).astype(bias.dtype)
    options = options._replace(slope=None)
    functions = {"default": functools.partial(_backward_of_each_input, options, None)}
    functions["cpu"] = (
        functools.partial(_backward_as_convolutions, options)
        if kernel.ndim == 4 and not _is_product(kernel, options)
        else functions["default"]
    )
    if (multiprocessors := _multiprocessors()) is not None:
        functions["cuda"] = functools.partial(_backward_of_each_input, options, multiprocessors)
    d_inputs, d_kernel = jax.lax.platform_dependent(inputs, kernel, cotangent, **functions)
    return d_inputs, d_kernel, d_bias, *(None if x is None else cotangent for x in given)


_conv2d.defvjp(_forward, _backward)


def _run(inputs, kernel, bias, addend, options):
    return _run_on_any_platform(inputs, kernel, bias, addend, options, _multiprocessors())


def _multiprocessors():
    """Returns how many there are of those that the kernels are written for, None where they cannot run."""
    if jax.__version_info__ < (0, 11) or not allows_kernels():
        return None
    return count_hopper_multiprocessors()


# Traced and lowered once for equal shapes.
@functools.partial(jax.jit, static_argnames=("options", "multiprocessors"))
def _run_on_any_platform(inputs, kernel, bias, addend, options, multiprocessors):
    functions = {"default": functools.partial(_run_plain, options)}
    if multiprocessors is not None:
        from stvsr_jax.ops import conv_mosaic  # with all of Mosaic, which nobody else needs

        if conv_mosaic.is_supported(inputs, kernel, options.stride, options.padding):
            functions["cuda"] = functools.partial(_run_mosaic, conv_mosaic.run, options, multiprocessors)
    return jax.lax.platform_dependent(inputs, kernel, bias, addend, **functions)


def _run_mosaic(run, options, multiprocessors, *operands):
    is_stack = operands[1].ndim == 5
    operands = operands if is_stack else jax.tree.map(lambda x: x[None], operands)
    y = run(*operands, slope=options.slope, multiprocessors=multiprocessors)
    return y if is_stack else y[0]


def _run_plain(options, inputs, kernel, bias, addend):
    if kernel.ndim == 5:
        each = [
            _run_plain(options, [x[s % len(x)] for x in inputs], kernel[s], *_part((bias, addend), s))
            for s in range(len(kernel))
        ]
        return jnp.stack(each)
    y = _convolve(_join(inputs), kernel, options)
    for term in (bias, addend):
        y = y if term is None else y + term
    if options.slope is None:
        return y
    return jnp.maximum(y, options.slope * y if options.slope else 0)


def _part(terms, number):
    return [None if term is None else term[number] for term in terms]


def _is_product(kernel, options):
    return kernel.shape[-4:-2] == (1, 1) and (options.stride, options.padding) == (1, 0)


def _join(inputs):
    return inputs[0] if len(inputs) == 1 else jnp.concatenate(inputs, axis=-1)


def _split(x, inputs, axis=-1):
    """Splits an axis of the joined inputs' channels."""
    return tuple(jnp.split(x, np.cumsum([x.shape[-1] for x in inputs])[:-1], axis=axis))


def _turn(kernel):
    """Returns the kernel that takes the gradient of a convolution's result to that of its input."""
    return kernel[..., ::-1, ::-1, :, :].swapaxes(-1, -2)


def _convolve(x, kernel, options):
    if _is_product(kernel, options):
        return x @ kernel[0, 0]
    pads = ((options.padding, options.padding),) * 2
    return jax.lax.conv_general_dilated(x, kernel, (options.stride,) * 2, pads, dimension_numbers=_NHWC)


def _backward_of_each_input(options, multiprocessors, inputs, kernel, cotangent):
    """The derivatives of XLA's convolution, in place of which the kernels stand where they can run."""
    d_inputs, d_kernels = [], []
    height, width = kernel.shape[-4:-2]
    is_same = options.stride == 1 and height == width == 2 * options.padding + 1 > 1
    for x, part in zip(inputs, _split(kernel, inputs, axis=-2), strict=True):
        derivatives = _derivatives if kernel.ndim == 4 else _derivatives_of_stack
        d_x, d_kernel = derivatives(options, x, part, cotangent)
        if is_same:
            d_x = _run(*_transposed(x, part, cotangent), None, None, options)
        if is_same and height == 3 and multiprocessors is not None:
            d_kernel = _sum_products(x, cotangent, multiprocessors, d_kernel)
        d_inputs.append(d_x)
        d_kernels.append(d_kernel)
    return tuple(d_inputs), jnp.concatenate(d_kernels, axis=-2)


def _sum_products(x, cotangent, multiprocessors, otherwise):
    """The gradient of a 3x3 kernel by the kernel of Hopper GPUs, where it can run."""
    from stvsr_jax.ops import conv_weights_mosaic

    if not conv_weights_mosaic.is_supported(x, cotangent):
        return otherwise
    is_stack = x.ndim == 5
    x, cotangent = (x, cotangent) if is_stack else (x[None], cotangent[None])
    d_kernel = conv_weights_mosaic.run(x, cotangent, multiprocessors=multiprocessors).astype(x.dtype)
    return d_kernel if is_stack else d_kernel[0]


def _derivatives(options, x, kernel, cotangent):
    _, vjp = jax.vjp(functools.partial(_convolve, options=options), x, kernel)
    return vjp(cotangent)


def _derivatives_of_stack(options, x, kernel, cotangent):
    groups = len(x)
    if _is_product(kernel, options) and groups == len(kernel):
        return jax.vmap(functools.partial(_derivatives, options))(x, kernel, cotangent)
    each = [_derivatives(options, x[s % groups], kernel[s], cotangent[s]) for s in range(len(kernel))]
    d_inputs, d_kernels = zip(*each, strict=True)
    return jnp.stack([sum(d_inputs[group::groups]) for group in range(groups)]), jnp.stack(d_kernels)


def _transposed(x, kernel, cotangent):
    """Returns inputs and kernel of the convolution that makes the gradient of x."""
    turned = _turn(kernel)
    if kernel.ndim == 4:
        return (cotangent,), turned
    groups = len(x)  # part s % groups of x was read by kernel s
    parts = [slice(start, start + groups) for start in range(0, len(kernel), groups)]
    return tuple(cotangent[part] for part in parts), jnp.concatenate(
        [turned[part] for part in parts], axis=-2
    )


def _backward_as_convolutions(options, inputs, kernel, cotangent):
    """The derivative as convolutions of NHWC images with HWIO kernels."""
    x = _join(inputs)
    stride, padding, _ = options
    size, out_size = x.shape[1:3], cotangent.shape[1:3]
    # Pixels at the far end that no window reached; negative padding crops.
    rest = [
        n + 2 * padding - (m - 1) * stride - k for n, m, k in zip(size, out_size, kernel.shape, strict=False)
    ]
    d_x = jax.lax.conv_general_dilated(
        cotangent,
        _turn(kernel),
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
    return _split(d_x, inputs), d_kernel.transpose(1, 2, 0, 3)
