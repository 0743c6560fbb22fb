"""The convolution and its gradients as XLA's.

XLA's CPU back end rewrites both gradients of a convolution into the form that its fast kernels take, but only outside
of loops (seen with jax 0.10.2). Inside `lax.scan` they run tens of times slower. So `differentiate_as_convolutions`
writes them in that form to begin with.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.ops.shuffle import pixel_shuffle

_NHWC = ("NHWC", "HWIO", "NHWC")


class Options(NamedTuple):
    """What is static in a convolution; see `conv2d`."""

    stride: int
    padding: int
    slope: float | None = None
    shuffle: int = 1
    implementation: str | None = None


def run(options, inputs, kernel, bias, addend):
    """Returns `conv2d`; S kernels run one after the other."""
    if kernel.ndim == 5:
        each = [
            run(options, [x[s % len(x)] for x in inputs], kernel[s], *_pick((bias, addend), s))
            for s in range(len(kernel))
        ]
        return jnp.stack(each)
    y = _convolve(_concatenate(inputs), kernel, options)
    for term in (bias, addend):
        y = y if term is None else y + term
    if options.slope is not None:
        y = jnp.maximum(y, options.slope * y if options.slope else 0)
    return pixel_shuffle(y, options.shuffle)


def reduce_kernel_gradient(options, inputs, kernel, cotangent, on_cpu=False):
    """Returns `conv2d_kernel_gradient`: the T convolutions are one with a larger batch."""
    # Without the barrier XLA splits the reduction into one for each part again.
    cotangent = jax.lax.optimization_barrier(cotangent)
    inputs, cotangent = jax.tree.map(_merge_parts, (inputs, cotangent))
    if on_cpu and can_differentiate_as_convolutions(kernel, options):
        return differentiate_as_convolutions(options, inputs, kernel, cotangent)[1]
    parts = zip(inputs, split(kernel, inputs, axis=-2), strict=True)
    return jnp.concatenate([differentiate(options, x, part, cotangent)[1] for x, part in parts], axis=-2)


def differentiate(options, x, kernel, cotangent):
    """Returns the gradients w.r.t. one input and its rows of the kernel, by XLA's own rules."""
    if kernel.ndim == 4:
        _, vjp = jax.vjp(functools.partial(_convolve, options=options), x, kernel)
        return vjp(cotangent)
    groups = len(x)
    if is_product(kernel, options) and groups == len(kernel):
        return jax.vmap(functools.partial(differentiate, options))(x, kernel, cotangent)
    each = [differentiate(options, x[s % groups], kernel[s], cotangent[s]) for s in range(len(kernel))]
    d_inputs, d_kernels = zip(*each, strict=True)
    return jnp.stack([sum(d_inputs[group::groups]) for group in range(groups)]), jnp.stack(d_kernels)


def transpose(x, kernel, cotangent):
    """Returns the inputs and the kernel of the convolution that makes the gradient w.r.t. x."""
    flipped = _flip(kernel)
    if kernel.ndim == 4:
        return (cotangent,), flipped
    groups = len(x)  # kernel s has read part s % groups of x
    parts = [slice(start, start + groups) for start in range(0, len(kernel), groups)]
    return tuple(cotangent[part] for part in parts), jnp.concatenate(
        [flipped[part] for part in parts], axis=-2
    )


def can_differentiate_as_convolutions(kernel, options):
    """Returns whether a CPU's gradient is `differentiate_as_convolutions`."""
    return kernel.ndim == 4 and not is_product(kernel, options)


def differentiate_as_convolutions(options, inputs, kernel, cotangent):
    """Returns both gradients as convolutions of NHWC images with HWIO kernels."""
    x = _concatenate(inputs)
    stride, padding = options.stride, options.padding
    size, out_size = x.shape[1:3], cotangent.shape[1:3]
    # Pixels at the far end that no tap reached; negative padding crops.
    rest = [
        n + 2 * padding - (m - 1) * stride - k for n, m, k in zip(size, out_size, kernel.shape, strict=False)
    ]
    d_x = jax.lax.conv_general_dilated(
        cotangent,
        _flip(kernel),
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
    return split(d_x, inputs), d_kernel.transpose(1, 2, 0, 3)


def is_product(kernel, options):
    """Returns whether the convolution is a matrix product of the pixels."""
    return kernel.shape[-4:-2] == (1, 1) and (options.stride, options.padding) == (1, 0)


def is_same_size(kernel, options):
    """Returns whether the output has the input's size: then the input's gradient is a convolution of the same kind."""
    height, width = kernel.shape[-4:-2]
    return options.stride == 1 and height == width == 2 * options.padding + 1 > 1


def split(x, inputs, axis=-1):
    """Splits an axis of the inputs' concatenated channels."""
    return tuple(jnp.split(x, np.cumsum([x.shape[-1] for x in inputs])[:-1], axis=axis))


def _merge_parts(x):
    """Returns [T, B, H, W, C] as [T B, H, W, C], or [T, S, B, H, W, C] as [S, T B, H, W, C]."""
    x = jnp.moveaxis(x, 0, -5)
    return x.reshape(*x.shape[:-5], -1, *x.shape[-3:])


def _pick(terms, number):
    return [None if term is None else term[number] for term in terms]


def _concatenate(inputs):
    return inputs[0] if len(inputs) == 1 else jnp.concatenate(inputs, axis=-1)


def _flip(kernel):
    """Returns the kernel that takes the gradient of a convolution's result to that of its input."""
    return kernel[..., ::-1, ::-1, :, :].swapaxes(-1, -2)


def _convolve(x, kernel, options):
    if is_product(kernel, options):
        return x @ kernel[0, 0]
    pads = ((options.padding, options.padding),) * 2
    return jax.lax.conv_general_dilated(x, kernel, (options.stride,) * 2, pads, dimension_numbers=_NHWC)
