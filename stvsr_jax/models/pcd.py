"""Pyramid, cascading and deformable alignment of two features (PCD; EDVR, arXiv 1905.02716, fig. 3).

Zooming Slow-Mo (arXiv 2002.11616, sec. 3.2) runs it both ways round to make the feature between two
frames, and inside its ConvLSTM to align the states.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models.deform import DeformConv
from stvsr_jax.models.layers import Conv, leaky_relu

# A feature at full, half and quarter resolution: [B, H, W, C], [B, H/2, W/2, C], [B, H/4, W/4, C].
Pyramid = tuple[jax.Array, jax.Array, jax.Array]


class FeaturePyramid(nn.Module):
    """Two halvings of a feature, each a stride-2 and a stride-1 convolution."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, level1: jax.Array) -> Pyramid:
        """Maps [B, H, W, C], H and W multiples of 4, to its pyramid."""
        conv = dict(features=self.features, dtype=self.dtype)
        level2 = leaky_relu(Conv(**conv, stride=2, name="level2_conv1")(level1))
        level2 = leaky_relu(Conv(**conv, name="level2_conv2")(level2))
        level3 = leaky_relu(Conv(**conv, stride=2, name="level3_conv1")(level2))
        level3 = leaky_relu(Conv(**conv, name="level3_conv2")(level3))
        return level1, level2, level3


class PCDAlign(nn.Module):
    """Samples one feature so that it lies over another, coarse to fine."""

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, source: Pyramid, reference: Pyramid) -> jax.Array:
        """Aligns.

        Args:
          source: pyramid of the feature that is sampled.
          reference: pyramid of the feature it is aligned to.

        Returns:
          [B, H, W, C].
        """

        def conv(name, *inputs):
            return Conv(self.features, dtype=self.dtype, name=name)(*inputs)

        def deform(name, x, guide):
            return DeformConv(self.features, self.groups, dtype=self.dtype, name=name)(x, guide)

        up = ops.upsample_bilinear_2x
        guide = leaky_relu(conv("level3_offset1", source[2], reference[2]))
        guide = leaky_relu(conv("level3_offset2", guide))
        aligned = leaky_relu(deform("level3_deform", source[2], guide))
        for level in (2, 1):
            own = leaky_relu(conv(f"level{level}_offset1", source[level - 1], reference[level - 1]))
            # What is doubled is the offset feature: displacements in pixels grow with the resolution.
            guide = leaky_relu(conv(f"level{level}_offset2", own, 2.0 * up(guide)))
            guide = leaky_relu(conv(f"level{level}_offset3", guide))
            sampled = deform(f"level{level}_deform", source[level - 1], guide)
            aligned = conv(f"level{level}_merge", sampled, up(aligned))
            if level == 2:
                aligned = leaky_relu(aligned)
        return aligned


class PairFusion(nn.Module):
    """1x1 convolution of both alignments of a pair: a over b and b over a, two weight sets."""

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, a: Pyramid, b: Pyramid) -> jax.Array:
        """Maps the pyramids of two features to [B, H, W, C]."""
        align = dict(features=self.features, groups=self.groups, dtype=self.dtype)
        a_over_b = PCDAlign(**align, name="align_a")(a, b)
        b_over_a = PCDAlign(**align, name="align_b")(b, a)
        return Conv(self.features, kernel_size=1, dtype=self.dtype, name="fuse")(a_over_b, b_over_a)
