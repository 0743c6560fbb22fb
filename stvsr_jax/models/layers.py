"""Layers both networks share: convolution, linear, residual stack. All NHWC.

Parameters are float32; `dtype` is the dtype of the computation. Initial values are PyTorch's
defaults, which the published networks started from, unless a layer says otherwise.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models import recurrence
from stvsr_jax.ops.devices import loop_unroll

Initializer = Callable[..., jax.Array]


def fan_in_uniform(fan_in: int) -> Initializer:
    """Returns U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels and biases."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _derived_from_result(
    slope: float, rectify: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """Gives a rectifier a derivative that is read off its result.

    The next layer keeps the result for its own derivative, so nothing else has to be stored. At zero the derivative
    is the slope of the negative side, as in PyTorch.
    """
    function = jax.custom_vjp(rectify)

    def forward(x):
        y = function(x)
        return y, y

    function.defvjp(forward, lambda y, cotangent: (jnp.where(y > 0, cotangent, slope * cotangent),))
    return function


# ReLU, and leaky ReLU with the slope 0.1 that both networks use.
relu = _derived_from_result(0.0, lambda x: jnp.maximum(x, 0))
leaky_relu = _derived_from_result(0.1, lambda x: jnp.maximum(x, 0.1 * x))


class Conv(nn.Module):
    """Convolution with bias; pads (kernel - 1) // 2 zeros on each side also at stride 2 (not `SAME`).

    Called with several inputs it convolves their concatenation along the channels.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None

    @nn.compact
    def weights(self, channels: int) -> "Weights":
        """Returns the parameters for inputs of this many channels, in the dtype of the computation."""
        size = self.kernel_size
        default = fan_in_uniform(size * size * channels)
        kernel = self.param("kernel", self.kernel_init or default, (size, size, channels, self.features))
        bias = self.param("bias", self.bias_init or default, (self.features,))
        return Weights(kernel.astype(self.dtype), bias.astype(self.dtype))

    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Maps inputs [B, H, W, C_i] to [B, ceil(H / stride), ceil(W / stride), features]."""
        return convolve(self.weights(sum(x.shape[-1] for x in inputs)), *inputs, stride=self.stride)


class Weights(NamedTuple):
    """Kernel [k, k, C, C'] and bias [C'] of a convolution, as plain arrays."""

    kernel: jax.Array
    bias: jax.Array


def convolve(weights: Weights, *inputs: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves the inputs, joined along the channels, in the dtype of the weights.

    Args:
      weights: of the convolution.
      *inputs: [B, H, W, C_i] each.
      stride: in both directions; the padding is (k - 1) // 2 zeros on each side.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C'].
    """
    x = inputs[0] if len(inputs) == 1 else jnp.concatenate(inputs, axis=-1)
    run = functools.partial(_convolve, stride=stride)
    return recurrence.apply(run, weights, x.astype(weights.kernel.dtype))


def _convolve(weights, x, stride):
    kernel, bias = weights
    if kernel.shape[:2] == (1, 1) and stride == 1:
        return x @ kernel[0, 0] + bias
    return ops.conv2d(x, kernel, stride, (kernel.shape[0] - 1) // 2) + bias


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))); kernels He-normal scaled by 0.1, biases zero."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C]."""
        conv = dict(
            features=self.features,
            dtype=self.dtype,
            # variance 0.1**2 * 2 / fan_in
            kernel_init=nn.initializers.variance_scaling(0.02, "fan_in", "normal"),
            bias_init=nn.initializers.zeros_init(),
        )
        y = relu(Conv(**conv, name="conv1")(x))
        return x + Conv(**conv, name="conv2")(y)


class ResidualStack(nn.Module):
    """`num_blocks` residual blocks as one scanned block: parameters carry a leading block axis."""

    features: int
    num_blocks: int
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, C] to [B, H, W, C]."""
        block = nn.remat(ResidualBlock, prevent_cse=False) if self.remat else ResidualBlock
        scan = nn.scan(
            lambda module, carry, _: (module(carry), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_blocks,
            unroll=loop_unroll(),
        )
        y, _ = scan(block(self.features, dtype=self.dtype, name="blocks"), x.astype(self.dtype), None)
        return y
