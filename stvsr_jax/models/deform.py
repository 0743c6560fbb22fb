"""Deformable convolution whose offsets and masks come from a guide feature (DCNv2, arXiv 1811.11168)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.models import offsets
from stvsr_jax.models.layers import Conv, convolve, fan_in_uniform
from stvsr_jax.ops import ConvWeights

TAPS = 9


class DeformWeights(NamedTuple):
    """The convolution of the columns [.., K C], as a 1x1 convolution, and the head that predicts offsets and masks.

    Channels are in the order of `ops.deform_columns`.
    """

    conv: ConvWeights
    head: ConvWeights


class DeformConv(nn.Module):
    """3x3 modulated deformable convolution, guided.

    The head is initialised with zeros: no displacement, every mask 1/2. Its parameters have the published order of channels:
    offsets (group, tap, (y, x)), then mask logits (group, tap).
    """

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def weights(self, channels: int, guide_channels: int) -> DeformWeights:
        """Returns the parameters for inputs and guides with these numbers of channels."""
        zeros = nn.initializers.zeros_init()
        head = Conv(3 * TAPS * self.groups, kernel_init=zeros, bias_init=zeros, dtype=self.dtype, name="head")
        kernel = self.param("kernel", fan_in_uniform(TAPS * channels), (3, 3, channels, self.features))
        bias = self.param("bias", zeros, (self.features,))
        kernel = kernel.reshape(1, 1, TAPS * channels, self.features)
        conv = ConvWeights(kernel.astype(self.dtype), bias.astype(self.dtype))
        order = _channel_order(self.groups)
        return DeformWeights(conv, ConvWeights(*(w[..., order] for w in head.weights(guide_channels))))

    def __call__(self, x: jax.Array, guide: jax.Array) -> jax.Array:
        """Maps x [B, H, W, C] and the guide [B, H, W, C'] to [B, H, W, features]."""
        return deform(self.weights(x.shape[-1], guide.shape[-1]), x, guide)


def _channel_order(groups):
    """Returns the published channel of each channel of the head: [K * 3 * G] in the order tap, (y, x, logit), group."""
    tap, group = np.arange(TAPS)[:, None, None], np.arange(groups)
    offset = 2 * (TAPS * group + tap) + np.arange(2)[:, None]  # [K, 2, G]
    logit = 2 * TAPS * groups + TAPS * group + tap  # [K, 1, G]
    return np.concatenate([offset, logit], axis=1).reshape(-1)


def deform(weights: DeformWeights, x: jax.Array, guide: jax.Array, slope: float | None = None) -> jax.Array:
    """Runs a guided deformable convolution, or S of them.

    Args:
      weights: of it, or of S.
      x: [B, H, W, C], what is sampled; for S convolutions [S, B, H, W, C].
      guide: [B, H, W, C'], or [S, B, H, W, C'].
      slope: of a ReLU at the end, see `convolve`.

    Returns:
      [B, H, W, features] in the dtype of the weights, or S of that.
    """
    head = convolve(weights.head, guide)
    groups = head.shape[-1] // (3 * TAPS)
    displacements = head.reshape(*head.shape[:-1], TAPS, 3, groups)[..., :2, :].astype(jnp.float32)
    for each in displacements if head.ndim == 5 else [displacements]:
        offsets.record(each)
    return weights.conv.deform(x.astype(head.dtype), head, groups=groups, slope=slope)
