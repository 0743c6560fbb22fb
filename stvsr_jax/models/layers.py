"""Layers both networks share: convolution, linear, residual stack. All NHWC.

Parameters are float32; `dtype` is the dtype of the computation. Initial values are PyTorch's
defaults, which the published networks started from, unless a layer says otherwise.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.ops import ConvWeights
from stvsr_jax.ops.devices import loop_unroll

Initializer = Callable[..., jax.Array]


def fan_in_uniform(fan_in: int) -> Initializer:
    """Returns U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for kernels and biases."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


# Negative slopes of ReLU and of the leaky ReLU that both networks use.
RELU = 0.0
LEAKY_RELU = 0.1


class Conv(nn.Module):
    """Convolution with bias; pads (kernel - 1) // 2 zeros on each side also at stride 2 (not `SAME`).

    Called with several inputs it convolves their concatenation along the channels. The other arguments are those of
    `convolve`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None

    @nn.compact
    def weights(self, channels: int) -> ConvWeights:
        """Returns the parameters for inputs of this many channels, in the dtype of the computation."""
        size = self.kernel_size
        default = fan_in_uniform(size * size * channels)
        kernel = self.param("kernel", self.kernel_init or default, (size, size, channels, self.features))
        bias = self.param("bias", self.bias_init or default, (self.features,))
        return ConvWeights(kernel.astype(self.dtype), bias.astype(self.dtype))

    def __call__(self, *inputs: jax.Array, **after: Any) -> jax.Array:
        """Maps inputs [B, H, W, C_i] to [B, ceil(H / stride), ceil(W / stride), features]."""
        weights = self.weights(sum(x.shape[-1] for x in inputs))
        return convolve(weights, *inputs, stride=self.stride, **after)


def convolve(
    weights: ConvWeights,
    *inputs: jax.Array,
    stride: int = 1,
    slope: float | None = None,
    addend: jax.Array | None = None,
    shuffle: int = 1,
) -> jax.Array:
    """Convolves the concatenated inputs in the dtype of the weights; S convolutions as `ops.conv2d`.

    Args:
      weights: of the convolution, or of S.
      *inputs: [B, H, W, C_i] each, for S convolutions [G_i, B, H, W, C_i].
      stride: in both directions; the padding is (k - 1) // 2 zeros on each side.
      slope: of a ReLU at the end (RELU, LEAKY_RELU), None: linear.
      addend: added before the ReLU, [B, ceil(H / stride), ceil(W / stride), C'] or None.
      shuffle: factor of an `ops.pixel_shuffle` at the end.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C'] in the dtype of the weights.
    """
    inputs = tuple(x.astype(weights.kernel.dtype) for x in inputs)
    padding = (weights.kernel.shape[-4] - 1) // 2
    return weights.convolve(
        inputs, stride=stride, padding=padding, slope=slope, addend=addend, shuffle=shuffle
    )


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
        y = Conv(**conv, name="conv1")(x, slope=RELU)
        return Conv(**conv, name="conv2")(y, addend=x)


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
        # Unrolled, XLA's CSE would undo the rematerialisation: it finds the forward's results in the same computation.
        unroll = loop_unroll() if self.remat else loop_unroll(self.num_blocks)
        scan = functools.partial(
            nn.scan,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_blocks,
            unroll=unroll,
        )
        blocks = block(self.features, dtype=self.dtype, name="blocks")
        return ops.scan_layers(scan, lambda block, x: block(x), blocks, x.astype(self.dtype))
