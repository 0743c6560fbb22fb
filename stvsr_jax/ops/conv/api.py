"""The plain convolution with what comes before and after it: joined inputs, bias, sum, rectifier.

On an NVIDIA Hopper GPU one kernel does all of it where it can (`mosaic.py`); elsewhere it is XLA's convolution.

XLA's CPU back end rewrites the two convolutions of a gradient into the form its fast kernels take, but only
outside of loops (seen with jax 0.10.2): inside `lax.scan` they run tens of times slower. There the derivative
is therefore written in that form to begin with.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.ops.devices import count_mosaic_multiprocessors
from stvsr_jax.ops.shuffle import pixel_shuffle, pixel_unshuffle

_NHWC = ("NHWC", "HWIO", "NHWC")


class _Options(NamedTuple):
    """What is known when the program is traced."""

    stride: int
    padding: int
    slope: float | None = None
    shuffle: int = 1


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
      shuffle: factor of a `pixel_shuffle` of the result.
      tap: like the result, or None. It is not read; its gradient is that of the rectifier's input. The kernel's is then
        zero: it is to be made from the tap's, see `conv2d_kernel_gradient`.

    Returns:
      [B, H', W', C'], H' = (H + 2 padding - kh) // stride + 1, with S kernels [S, B, H', W', C'];
      shuffled [.., shuffle H', shuffle W', C' / shuffle**2].
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    return _conv2d(inputs, kernel, bias, addend, tap, _Options(stride, padding, slope, shuffle))


def conv2d_kernel_gradient(
    inputs: tuple[jax.Array, ...],
    kernel: jax.Array,
    cotangent: jax.Array,
    stride: int = 1,
    padding: int = 1,
) -> jax.Array:
    """Return the gradient of the kernel from T convolutions with it.

    Args:
      inputs: as of `conv2d` with T in front, [T, B, H, W, C_i] or [T, G_i, B, H, W, C_i].
      kernel: as of `conv2d`.
      cotangent: of the T results, [T, B, H', W', C'] or [T, S, B, H', W', C'].
      stride: in both directions.
      padding: zeros on each of the four sides.

    Returns:
      Like the kernel: the sum over all T.
    """
    options = _Options(stride, padding)
    functions = {
        "cpu": functools.partial(_kernel_gradient, options, on_cpu=True),
        "default": functools.partial(_kernel_gradient, options),
    }
    if (multiprocessors := count_mosaic_multiprocessors()) is not None:
        functions["cuda"] = functools.partial(_kernel_gradient_of_parts, options, multiprocessors)
    return jax.lax.platform_dependent(inputs, kernel, cotangent, **functions)


def _kernel_gradient(options, inputs, kernel, cotangent, on_cpu=False):
    # Else XLA would take the sum over all parts apart again, one for each part.
    cotangent = jax.lax.optimization_barrier(cotangent)
    inputs, cotangent = jax.tree.map(_merge_parts, (inputs, cotangent))
    if on_cpu and _has_form_of_convolutions(kernel, options):
        return _backward_as_convolutions(options, inputs, kernel, cotangent)[1]
    parts = zip(inputs, _split(kernel, inputs, axis=-2), strict=True)
    return jnp.concatenate([_derivatives(options, x, part, cotangent)[1] for x, part in parts], axis=-2)


def _merge_parts(x):
    """Returns [T, B, H, W, C] as [T B, H, W, C], or [T, S, B, H, W, C] as [S, T B, H, W, C]."""
    x = jnp.moveaxis(x, 0, -5)
    return x.reshape(*x.shape[:-5], -1, *x.shape[-3:])


def _kernel_gradient_of_parts(options, multiprocessors, inputs, kernel, cotangent):
    """Reads the parts where they lie, if it can: to bring them together would cost more than the sum itself."""
    cotangents, gradients = list(cotangent), []
    for x, part in zip(inputs, _split(kernel, inputs, axis=-2), strict=True):
        if _is_product(kernel, options):
            each = [_derivatives(options, a, part, b)[1] for a, b in zip(x, cotangents, strict=True)]
            gradient = sum(g.astype(jnp.float32) for g in each).astype(part.dtype)
        else:
            gradient = _sum_products(list(x), cotangents, options, multiprocessors)
        if gradient is None:
            gradient = _kernel_gradient(options, (x,), part, cotangent)
        gradients.append(gradient)
    return jnp.concatenate(gradients, axis=-2)


def prefers_stacks(dtype: Any) -> bool:
    """Return whether what is traced now should run convolutions of one shape as one: where one kernel can."""
    return jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16) and count_mosaic_multiprocessors() is not None


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
    d_tap = cotangent
    if options.shuffle > 1:
        cotangent = pixel_unshuffle(cotangent, options.shuffle)
    d_bias = None if bias is None else jnp.sum(cotangent, axis=(-4, -3, -2)).astype(bias.dtype)
    options = options._replace(slope=None, shuffle=1)
    is_needed = given[1] is None
    functions = {"default": functools.partial(_backward_of_each_input, options, None, is_needed)}
    functions["cpu"] = (
        functools.partial(_backward_as_convolutions, options)
        if _has_form_of_convolutions(kernel, options)
        else functions["default"]
    )
    if (multiprocessors := count_mosaic_multiprocessors()) is not None:
        functions["cuda"] = functools.partial(_backward_of_each_input, options, multiprocessors, is_needed)
    d_inputs, d_kernel = jax.lax.platform_dependent(inputs, kernel, cotangent, **functions)
    d_kernel = d_kernel if is_needed else jnp.zeros_like(kernel)
    terms = (cotangent, d_tap)
    return d_inputs, d_kernel, d_bias, *(None if x is None else y for x, y in zip(given, terms, strict=True))


_conv2d.defvjp(_forward, _backward)


def _run(inputs, kernel, bias, addend, options):
    return _run_on_any_platform(inputs, kernel, bias, addend, options, count_mosaic_multiprocessors())


# Traced and lowered once for equal shapes.
@functools.partial(jax.jit, static_argnames=("options", "multiprocessors"))
def _run_on_any_platform(inputs, kernel, bias, addend, options, multiprocessors):
    functions = {"default": functools.partial(_run_plain, options)}
    if multiprocessors is not None:
        from stvsr_jax.ops.conv import mosaic  # with all of Mosaic, which nobody else needs

        if mosaic.is_supported(inputs, kernel, options.stride, options.padding):
            run = functools.partial(mosaic.run, slope=options.slope, multiprocessors=multiprocessors)
            functions["cuda"] = functools.partial(_run_mosaic, run, options)
    return jax.lax.platform_dependent(inputs, kernel, bias, addend, **functions)


def _run_mosaic(run, options, *operands):
    shuffles = options.shuffle == 2 and operands[1].shape[-1] % 256 == 0
    is_stack = operands[1].ndim == 5
    operands = operands if is_stack else jax.tree.map(lambda x: x[None], operands)
    y = run(*operands, shuffles=shuffles)
    y = y if is_stack else y[0]
    return y if shuffles else pixel_shuffle(y, options.shuffle)


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
    if options.slope is not None:
        y = jnp.maximum(y, options.slope * y if options.slope else 0)
    return pixel_shuffle(y, options.shuffle)


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


def _backward_of_each_input(options, multiprocessors, needs_kernel, inputs, kernel, cotangent):
    """The derivatives of XLA's convolution, in place of which the kernels stand where they can run."""
    d_inputs, d_kernels = [], []
    for x, part in zip(inputs, _split(kernel, inputs, axis=-2), strict=True):
        d_x, d_kernel = _derivatives(options, x, part, cotangent)
        if _is_same(kernel, options):
            d_x = _run(*_transposed(x, part, cotangent), None, None, options)
        by_kernel = _sum_products([x], [cotangent], options, multiprocessors) if needs_kernel else None
        d_inputs.append(d_x)
        d_kernels.append(d_kernel if by_kernel is None else by_kernel)
    return tuple(d_inputs), jnp.concatenate(d_kernels, axis=-2)


def _is_same(kernel, options):
    """Returns whether the gradient of the input is a convolution like this one."""
    height, width = kernel.shape[-4:-2]
    return options.stride == 1 and height == width == 2 * options.padding + 1 > 1


def _sum_products(inputs, cotangents, options, multiprocessors):
    """The gradient of a 3x3 kernel from T convolutions by the kernel of Hopper GPUs, None where it cannot run."""
    if multiprocessors is None or (options.stride, options.padding) != (1, 1):
        return None
    from stvsr_jax.ops.conv import mosaic_weights

    sides = [x.shape[-3] for x in (inputs[0], cotangents[0])]
    if sides[0] != sides[1] or not mosaic_weights.is_supported(inputs[0], cotangents[0]):
        return None
    return _sum_products_by_kernel(inputs, cotangents, multiprocessors)


# Traced and lowered once for equal shapes.
@functools.partial(jax.jit, static_argnames="multiprocessors")
def _sum_products_by_kernel(inputs, cotangents, multiprocessors):
    from stvsr_jax.ops.conv import mosaic_weights

    is_stack = inputs[0].ndim == 5
    inputs, cotangents = jax.tree.map(lambda x: x if is_stack else x[None], (inputs, cotangents))
    gradient = mosaic_weights.run(inputs, cotangents, multiprocessors=multiprocessors)
    return (gradient if is_stack else gradient[0]).astype(inputs[0].dtype)


def _derivatives(options, x, kernel, cotangent):
    """The derivatives of XLA's convolution by input and kernel."""
    if kernel.ndim == 4:
        _, vjp = jax.vjp(functools.partial(_convolve, options=options), x, kernel)
        return vjp(cotangent)
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


def _has_form_of_convolutions(kernel, options):
    """Returns whether a CPU's derivative is to be `_backward_as_convolutions`."""
    return kernel.ndim == 4 and not _is_product(kernel, options)


def _backward_as_convolutions(options, inputs, kernel, cotangent):
    """The derivative as convolutions of NHWC images with HWIO kernels."""
    x = _join(inputs)
    stride, padding = options.stride, options.padding
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
