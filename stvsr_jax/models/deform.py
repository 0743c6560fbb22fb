"""Deformable convolution whose offsets and masks come from a guide feature (DCNv2, arXiv 1811.11168)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models.layers import Conv, Weights, convolve, fan_in_uniform, side_by_side

TAPS = 9


class DeformWeights(NamedTuple):
    """The sampled convolution and the head that says where to sample.

    The head's channels are offsets (group-major, then tap, then y, x) followed by mask logits (group, tap).
    """

    conv: Weights
    head: Weights


class DeformConv(nn.Module):
    """3x3 modulated deformable convolution, guided.

    The head is zero at the start: no displacement, every mask 1/2.
    """

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def weights(self, channels: int, guide_channels: int) -> DeformWeights:
        """Returns the parameters for inputs and guides of so many channels."""
        zeros = nn.initializers.zeros_init()
        head = Conv(3 * TAPS * self.groups, kernel_init=zeros, bias_init=zeros, dtype=self.dtype, name="head")
        kernel = self.param("kernel", fan_in_uniform(TAPS * channels), (3, 3, channels, self.features))
        bias = self.param("bias", zeros, (self.features,))
        conv = Weights(kernel.astype(self.dtype), bias.astype(self.dtype))
        return DeformWeights(conv, head.weights(guide_channels))

    def __call__(self, x: jax.Array, guide: jax.Array) -> jax.Array:
        """Samples x [B, H, W, C] as the guide [B, H, W, C'] says; returns [B, H, W, features]."""
        return deform(self.weights(x.shape[-1], guide.shape[-1]), x, guide)


def join_deforms(weights: Sequence[DeformWeights]) -> DeformWeights:
    """Joins n deformable convolutions into one that runs them side by side."""
    return DeformWeights(side_by_side([w.conv for w in weights]), side_by_side([w.head for w in weights]))


def deform(weights: DeformWeights, x: jax.Array, guide: jax.Array) -> jax.Array:
    """Runs n guided deformable convolutions, each on its own part of the channels.

    Args:
      weights: of one, or of n from `join_deforms`.
      x: [B, H, W, n C], what is sampled.
      guide: [B, H, W, n C'].

    Returns:
      [B, H, W, n features] in the dtype of the weights.
    """
    head = convolve(weights.head, guide)
    *shape, channels = head.shape
    count = guide.shape[-1] // weights.head.kernel.shape[2]
    head = head.reshape(*shape, count, -1)  # [B, H, W, n, 3 TAPS groups]
    split = head.shape[-1] // 3 * 2
    offset = head[..., :split].astype(jnp.float32).reshape(*shape, channels // (3 * TAPS), TAPS, 2)
    mask = nn.sigmoid(head[..., split:]).reshape(*shape, channels // (3 * TAPS), TAPS)
    kernel, bias = weights.conv
    return ops.deform_conv2d(x.astype(kernel.dtype), offset, mask, kernel, bias)
