"""Pyramid, cascading and deformable alignment of two features (PCD; EDVR, arXiv 1905.02716, fig. 3).

Zooming Slow-Mo (arXiv 2002.11616, sec. 3.2) runs it both ways round to make the feature between two frames, and
inside its ConvLSTM to align the two states.

All these alignments have the same layers with other weights. They run side by side: the features of n of them
lie next to each other along the channels, [B, H, W, n C], and each layer is one grouped convolution. The first
layer of an alignment reads both features; it is the sum of what it makes of each (`read`), so that a feature
which is known beforehand can be read beforehand.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models.deform import DeformConv, DeformWeights, deform, join_deforms
from stvsr_jax.models.layers import Conv, Weights, convolve, leaky_relu, side_by_side

# A feature at full, half and quarter resolution: [B, H, W, C], [B, H/2, W/2, C], [B, H/4, W/4, C].
Pyramid = tuple[jax.Array, jax.Array, jax.Array]
# Weights of one FeaturePyramid or one alignment by layer name.
Layers = dict[str, Any]


class FeaturePyramid(nn.Module):
    """Two halvings of a feature, each a stride-2 and a stride-1 convolution."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def weights(self) -> Layers:
        """Returns the parameters."""
        names = [f"level{level}_conv{i}" for level in (2, 3) for i in (1, 2)]
        return {
            name: Conv(self.features, dtype=self.dtype, name=name).weights(self.features) for name in names
        }

    def __call__(self, level1: jax.Array) -> Pyramid:
        """Maps [B, H, W, C], H and W multiples of 4, to its pyramid."""
        return build_pyramids(self.weights(), level1)


def join_pyramids(weights: Sequence[Layers]) -> Layers:
    """Joins n FeaturePyramids into one that runs them side by side."""
    return {name: side_by_side([w[name] for w in weights]) for name in weights[0]}


def build_pyramids(weights: Layers, level1: jax.Array) -> Pyramid:
    """Builds n pyramids.

    Args:
      weights: of one FeaturePyramid, or of n from `join_pyramids`.
      level1: [B, H, W, n C], or [B, H, W, C] for n pyramids of the same feature.

    Returns:
      Levels [B, h, w, n C]; the first is `level1` as it was.
    """
    levels = [level1]
    for level in (2, 3):
        half = leaky_relu(convolve(weights[f"level{level}_conv1"], levels[-1], stride=2))
        levels.append(leaky_relu(convolve(weights[f"level{level}_conv2"], half)))
    return tuple(levels)


class PCDAlign(nn.Module):
    """The parameters of one alignment; `fuse_pairs` runs it.

    Source feature a is sampled so that it lies over reference b, coarse to fine (up: bilinear x2):

        L3: o3 = lrelu(conv[a3, b3]); o3 = lrelu(conv(o3));                              f3 = lrelu(dcn(a3, o3))
        L2: o2 = lrelu(conv[a2, b2]); o2 = lrelu(conv[o2, 2 up(o3)]); o2 = lrelu(conv(o2))
            f2 = lrelu(conv[dcn(a2, o2), up(f3)])
        L1: o1 as at L2 with 2 up(o2);  f1 = conv[dcn(a1, o1), up(f2)]
    """

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def weights(self) -> Layers:
        """Returns the parameters."""
        c, layers = self.features, {}
        for level in (3, 2, 1):
            inputs = {"offset1": 2 * c, "offset2": c} if level == 3 else {"offset1": 2 * c, "offset2": 2 * c}
            inputs |= {} if level == 3 else {"offset3": c, "merge": 2 * c}
            for layer, channels in inputs.items():
                name = f"level{level}_{layer}"
                layers[name] = Conv(c, dtype=self.dtype, name=name).weights(channels)
            name = f"level{level}_deform"
            layers[name] = DeformConv(c, self.groups, dtype=self.dtype, name=name).weights(c, c)
        return layers


class PairWeights(NamedTuple):
    """Parameters of one PairFusion: a over b, b over a, and the 1x1 convolution of both."""

    align_a: Layers
    align_b: Layers
    fuse: Weights


class PairFusion(nn.Module):
    """1x1 convolution of both alignments of a pair: a over b and b over a, two weight sets."""

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def weights(self) -> PairWeights:
        """Returns the parameters."""
        align = dict(features=self.features, groups=self.groups, dtype=self.dtype)
        fuse = Conv(self.features, kernel_size=1, dtype=self.dtype, name="fuse")
        return PairWeights(
            PCDAlign(**align, name="align_a").weights(),
            PCDAlign(**align, name="align_b").weights(),
            fuse.weights(2 * self.features),
        )

    def __call__(self, a: Pyramid, b: Pyramid) -> jax.Array:
        """Maps the pyramids of two features to [B, H, W, C]."""
        weights = join_pairs([self.weights()])
        return fuse_pairs(weights, a, b, read(weights.read_a, a), read(weights.read_b, b))


class JoinedPairs(NamedTuple):
    """Parameters of n PairFusions that run side by side.

    Attributes:
      read_a: for each level, what the first layers make of a, with the bias.
      read_b: the same of b, without.
      layers: the other layers of the 2 n alignments: for each pair that of a, then that of b.
      fuse: the 1x1 convolutions.
    """

    read_a: tuple[Weights, Weights, Weights]
    read_b: tuple[Weights, Weights, Weights]
    layers: Layers
    fuse: Weights


def join_pairs(weights: Sequence[PairWeights]) -> JoinedPairs:
    """Joins n PairFusions."""
    aligns = [align for pair in weights for align in (pair.align_a, pair.align_b)]
    layers = {}
    for name, first in aligns[0].items():
        if not name.endswith("offset1"):
            join = join_deforms if isinstance(first, DeformWeights) else side_by_side
            layers[name] = join([align[name] for align in aligns])
    reads = ([], [])
    for level in (1, 2, 3):
        offset1 = [align[f"level{level}_offset1"] for align in aligns]
        # An alignment's first layer reads its source, then its reference; a is the source of every other one.
        halves = [jnp.split(w.kernel, 2, axis=2)[:: 1 if i % 2 == 0 else -1] for i, w in enumerate(offset1)]
        bias = jnp.concatenate([w.bias for w in offset1])
        reads[0].append(Weights(jnp.concatenate([of_a for of_a, _ in halves], axis=-1), bias))
        reads[1].append(Weights(jnp.concatenate([of_b for _, of_b in halves], axis=-1), jnp.zeros_like(bias)))
    return JoinedPairs(
        tuple(reads[0]), tuple(reads[1]), layers, side_by_side([pair.fuse for pair in weights])
    )


def read(weights: tuple[Weights, Weights, Weights], pyramids: Pyramid) -> Pyramid:
    """Returns what the first layers of n pairs make of one of their two features.

    Args:
      weights: `JoinedPairs.read_a` or `read_b`.
      pyramids: of that feature of the pairs; a level may have the channels of one, where all pairs share it.

    Returns:
      Levels [B, h, w, 2 n C].
    """
    return tuple(convolve(w, x) for w, x in zip(weights, pyramids, strict=True))


def fuse_pairs(weights: JoinedPairs, a: Pyramid, b: Pyramid, read_a: Pyramid, read_b: Pyramid) -> jax.Array:
    """Runs n PairFusions, 2 n alignments, side by side.

    Args:
      weights: of the pairs.
      a, b: pyramids of the pairs' features, levels [B, h, w, n C] or, where all share one, [B, h, w, C].
      read_a, read_b: of the same, from `read`.

    Returns:
      [B, H, W, n C].
    """
    channels = weights.fuse.kernel.shape[2] // 2
    count = weights.fuse.kernel.shape[3] // channels
    up = ops.upsample_bilinear_2x

    def conv(name, *inputs):
        return convolve(weights.layers[name], _interleave(inputs, 2 * count))

    guide = aligned = None
    for level in (3, 2, 1):
        own = leaky_relu(read_a[level - 1] + read_b[level - 1])
        if level == 3:
            guide = leaky_relu(conv("level3_offset2", own))
        else:
            # What is doubled is the offset feature: displacements in pixels grow with the resolution.
            guide = leaky_relu(conv(f"level{level}_offset2", own, 2.0 * up(guide)))
            guide = leaky_relu(conv(f"level{level}_offset3", guide))
        sources = _alternate(a[level - 1], b[level - 1], channels, count)
        sampled = deform(weights.layers[f"level{level}_deform"], sources, guide)
        if level < 3:
            sampled = conv(f"level{level}_merge", sampled, up(aligned))
        aligned = leaky_relu(sampled) if level > 1 else sampled
    return convolve(weights.fuse, aligned)


def _interleave(inputs, count):
    """Joins arrays of `count` parts so that the parts of one index lie together: [B, h, w, count * sum C]."""
    if len(inputs) == 1:
        return inputs[0]
    joined = jnp.concatenate([x.reshape(*x.shape[:-1], count, -1) for x in inputs], axis=-1)
    return joined.reshape(*joined.shape[:-2], -1)


def _alternate(a, b, channels, count):
    """Returns [B, h, w, 2 count C]: a, then b of each pair."""
    parts = []
    for i in range(count):
        for x in (a, b):
            start = i * channels if x.shape[-1] > channels else 0  # one that all pairs share
            parts.append(x[..., start : start + channels])
    return jnp.concatenate(parts, axis=-1)
