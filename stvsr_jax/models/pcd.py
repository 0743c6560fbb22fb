"""Pyramid, cascading and deformable alignment of two features (PCD; EDVR, arXiv 1905.02716, fig. 3).

Zooming Slow-Mo (arXiv 2002.11616, sec. 3.2) runs it both ways round to make the feature between two frames, and
inside its ConvLSTM to align the two states.

The first layer of an alignment reads both features. It is the sum of what it makes of each (`read`), and both
alignments of a pair read the same two, so that is one wide convolution for each feature, and a feature which is
known beforehand can be read beforehand.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models.deform import DeformConv, deform
from stvsr_jax.models.layers import LEAKY_RELU, Conv, Weights, convolve

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
        return build_pyramid(self.weights(), level1)


def build_pyramid(weights: Layers, level1: jax.Array) -> Pyramid:
    """Builds the pyramid of [B, H, W, C], or with stacked weights of [S or 1, B, H, W, C]."""
    levels = [level1]
    for level in (2, 3):
        half = convolve(weights[f"level{level}_conv1"], levels[-1], stride=2, slope=LEAKY_RELU)
        levels.append(convolve(weights[f"level{level}_conv2"], half, slope=LEAKY_RELU))
    return tuple(levels)


class PCDAlign(nn.Module):
    """The parameters of one alignment; `fuse_pair` runs it.

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
            inputs = {"offset1": 2 * c, "offset2": 2 * c, "offset3": c, "merge": 2 * c}
            if level == 3:
                inputs = {"offset1": 2 * c, "offset2": c}
            for layer, channels in inputs.items():
                name = f"level{level}_{layer}"
                layers[name] = Conv(c, dtype=self.dtype, name=name).weights(channels)
            name = f"level{level}_deform"
            layers[name] = DeformConv(c, self.groups, dtype=self.dtype, name=name).weights(c, c)
        return layers


class PairWeights(NamedTuple):
    """Parameters of one PairFusion.

    Attributes:
      read_a: for each level, what the first layers of both alignments make of a, with their biases.
      read_b: the same of b, without.
      align_a: the other layers of the alignment of a over b.
      align_b: of b over a.
      fuse: the 1x1 convolution of both.
    """

    read_a: tuple[Weights, Weights, Weights]
    read_b: tuple[Weights, Weights, Weights]
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
        sizes = dict(features=self.features, groups=self.groups, dtype=self.dtype)
        align_a, align_b = (PCDAlign(**sizes, name=f"align_{x}").weights() for x in "ab")
        read_a, read_b = [], []
        for level in (1, 2, 3):
            (kernel_a, bias_a), (kernel_b, bias_b) = (w[f"level{level}_offset1"] for w in (align_a, align_b))
            # The first layer of an alignment reads its source, then its reference.
            of_a, over_b = jnp.split(kernel_a, 2, axis=2)
            of_b, over_a = jnp.split(kernel_b, 2, axis=2)
            bias = jnp.concatenate([bias_a, bias_b])
            read_a.append(Weights(jnp.concatenate([of_a, over_a], axis=-1), bias))
            read_b.append(Weights(jnp.concatenate([over_b, of_b], axis=-1), jnp.zeros_like(bias)))
        fuse = Conv(self.features, kernel_size=1, dtype=self.dtype, name="fuse").weights(2 * self.features)
        return PairWeights(tuple(read_a), tuple(read_b), align_a, align_b, fuse)

    def __call__(self, a: Pyramid, b: Pyramid) -> jax.Array:
        """Maps the pyramids of two features to [B, H, W, C]."""
        weights = self.weights()
        if not ops.prefers_stacks(self.dtype):
            return fuse_pair(weights, a, b, read(weights.read_a, a))
        stack = stack_pairs([weights])
        a, b = (tuple(level[None] for level in pyramid) for pyramid in (a, b))
        return fuse_pairs(stack, a, b, read(stack.read_a, a))[0]


class PairStack(NamedTuple):
    """Parameters of P PairFusions that run as one; of each layer those of all alignments, or of all pairs.

    Attributes:
      read_a, read_b: as of PairWeights; for a over b of each pair, then for b over a: 2P.
      align: the other layers of the alignments, 2P.
      fuse: P.
    """

    read_a: tuple[Weights, Weights, Weights]
    read_b: tuple[Weights, Weights, Weights]
    align: Layers
    fuse: Weights


def stack_pairs(pairs: Sequence[PairWeights]) -> PairStack:
    """Returns the parameters of all pairs side by side."""

    def halves(of_level):  # of one pair, for a over b and for b over a
        return zip(*(jnp.split(x, 2, axis=-1) for x in of_level), strict=True)

    def stack_reads(reads):  # [pairs][levels]
        over_b, over_a = zip(*([Weights(*w) for w in halves(read)] for read in reads), strict=True)
        return stack_weights([*over_b, *over_a])

    return PairStack(
        *(
            tuple(stack_reads(of_level) for of_level in zip(*of_pairs, strict=True))
            for of_pairs in ([pair.read_a for pair in pairs], [pair.read_b for pair in pairs])
        ),
        stack_weights([*(pair.align_a for pair in pairs), *(pair.align_b for pair in pairs)]),
        stack_weights([pair.fuse for pair in pairs]),
    )


def stack_weights(trees: Sequence[Any]) -> Any:
    """Returns one tree of arrays with those of all trees side by side."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def read(weights: tuple[Weights, Weights, Weights], pyramid: Pyramid) -> Pyramid:
    """Returns what the first layers of a pair's alignments make of one feature: levels [B, h, w, 2C] or [2P, B, h, w, C].

    Args:
      weights: `read_a` or `read_b` of PairWeights or PairStack.
      pyramid: of a or b.
    """
    return tuple(convolve(w, x) for w, x in zip(weights, pyramid, strict=True))


def fuse_pair(weights: PairWeights, a: Pyramid, b: Pyramid, read_a: Pyramid) -> jax.Array:
    """Runs a PairFusion.

    Args:
      weights: of it.
      a, b: pyramids of the two features.
      read_a: of a, from `read`.

    Returns:
      [B, H, W, C].
    """
    both = (
        convolve(w, level, addend=x, slope=LEAKY_RELU)
        for w, level, x in zip(weights.read_b, b, read_a, strict=True)
    )
    for_a, for_b = zip(*(jnp.split(x, 2, axis=-1) for x in both), strict=True)
    return convolve(weights.fuse, _align(weights.align_a, a, for_a), _align(weights.align_b, b, for_b))


def fuse_pairs(weights: PairStack, a: Pyramid, b: Pyramid, read_a: Pyramid) -> jax.Array:
    """Runs P PairFusions as one; the same as `fuse_pair` for each.

    Args:
      weights: of all.
      a: pyramids of the first features, levels [P or 1, B, h, w, C].
      b: of the second ones, [P, B, h, w, C] or P arrays [B, h, w, C].
      read_a: of a, from `read`.

    Returns:
      [P, B, H, W, C].
    """
    sources = [ops.arrange(_join, x, *y) for x, y in zip(a, b, strict=True)]
    guides = [
        convolve(w, source[len(source) // 2 :], addend=x, slope=LEAKY_RELU)
        for w, source, x in zip(weights.read_b, sources, read_a, strict=True)
    ]
    return convolve(weights.fuse, *jnp.split(_align(weights.align, sources, guides), 2))


def _join(a, *b):
    return jnp.concatenate([jnp.broadcast_to(a, (len(b), *a.shape[1:])), jnp.stack(b)])


def _align(layers, source, guides):
    """Runs an alignment, or a stack of them, from the outputs of its first layers; see PCDAlign."""

    def conv(name, *inputs, slope=LEAKY_RELU):
        return convolve(layers[name], *inputs, slope=slope)

    up = ops.upsample_bilinear_2x
    guide = conv("level3_offset2", guides[2])
    aligned = deform(layers["level3_deform"], source[2], guide, slope=LEAKY_RELU)
    for level in (2, 1):
        # What is doubled is the offset feature: displacements in pixels grow with the resolution.
        guide = conv(f"level{level}_offset2", guides[level - 1], up(guide, 2.0))
        guide = conv(f"level{level}_offset3", guide)
        sampled = deform(layers[f"level{level}_deform"], source[level - 1], guide)
        aligned = conv(f"level{level}_merge", sampled, up(aligned), slope=LEAKY_RELU if level == 2 else None)
    return aligned
