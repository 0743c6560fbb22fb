"""Deformable convolution whose offsets and masks come from a guide feature (DCNv2, arXiv 1811.11168)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models.layers import Conv, fan_in_uniform


class DeformConv(nn.Module):
    """3x3 modulated deformable convolution, guided.

    The head is zero at the start: no displacement, every mask 1/2. Its channels are offsets
    (group-major, then tap, then y, x) followed by mask logits (group, tap).
    """

    features: int
    groups: int = 8
    dtype: Any = jnp.float32
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, guide: jax.Array) -> jax.Array:
        """Samples x as the guide says.

        Args:
          x: [B, H, W, C].
          guide: [B, H, W, C'].

        Returns:
          [B, H, W, features].
        """
        zeros, taps = nn.initializers.zeros_init(), 9
        split = self.groups * taps * 2
        head = Conv(
            self.groups * taps * 3, kernel_init=zeros, bias_init=zeros, dtype=self.dtype, name="head"
        )(guide)
        offset = head[..., :split].astype(jnp.float32).reshape(*head.shape[:-1], self.groups, taps, 2)
        mask = nn.sigmoid(head[..., split:]).reshape(*head.shape[:-1], self.groups, taps)
        self.sow("intermediates", "offset", offset)

        channels = x.shape[-1]
        kernel = self.param("kernel", fan_in_uniform(taps * channels), (3, 3, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return ops.deform_conv2d(x, offset, mask, kernel, bias, implementation=self.implementation)
