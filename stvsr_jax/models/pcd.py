"""Pyramid, cascading and deformable alignment of two features (PCD; EDVR, arXiv 1905.02716, fig. 3).

Zooming Slow-Mo (arXiv 2002.11616, sec. 3.2) runs it both ways round to make the feature between two frames, and
inside its ConvLSTM to align the two states.

The first layer of an alignment reads both features. It is linear, so it is the sum of what it makes of each (`read`).
Both alignments of a pair read the same two features: one wide convolution for each. A feature that is known
beforehand is read beforehand.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models.deform import DeformConv, deform
from stvsr_jax.models.layers import LEAKY_RELU, Conv, convolve
from stvsr_jax.ops import ConvWeights, stacks
from stvsr_jax.ops.stacks import Stack

# A feature at full, half and quarter resolution: [B, H, W, C], [B, H/2, W/2, C], [B, H/4, W/4, C], or stacks of these.
Pyramid = tuple[Any, Any, Any]
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


def build_pyramid(weights: Layers | Stack, level1: jax.Array | Stack) -> Pyramid:
    """Builds the pyramid of [B, H, W, C], or with a stack of weights the pyramids of a stack."""

    def conv(name, x, **options):
        layers = stacks.apply(operator.itemgetter(name), weights)
        return stacks.run(convolve, layers, x, slope=LEAKY_RELU, **options)

    levels = [level1]
    for level in (2, 3):
        half = conv(f"level{level}_conv1", levels[-1], stride=2)
        levels.append(conv(f"level{level}_conv2", half))
    return tuple(levels)


class PCDAlign(nn.Module):
    """The parameters of one alignment; `fuse` runs it.

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
      read_a: for each level, what the first layers of the alignments of a over b and of b over a make of a; with bias.
      read_b: the same of b; without.
      align_a: the other layers of the alignment of a over b.
      align_b: of b over a.
      fuse: the 1x1 convolution of both.
    """

    read_a: tuple[tuple[ConvWeights, ConvWeights], ...]
    read_b: tuple[tuple[ConvWeights, ConvWeights], ...]
    align_a: Layers
    align_b: Layers
    fuse: ConvWeights


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
            read_a.append((ConvWeights(of_a, bias_a), ConvWeights(over_a, bias_b)))
            no_bias = jnp.zeros_like(bias_a)
            read_b.append((ConvWeights(over_b, no_bias), ConvWeights(of_b, no_bias)))
        fuse = Conv(self.features, kernel_size=1, dtype=self.dtype, name="fuse").weights(2 * self.features)
        return PairWeights(tuple(read_a), tuple(read_b), align_a, align_b, fuse)

    def __call__(self, a: Pyramid, b: Pyramid) -> jax.Array:
        """Maps the pyramids of two features to [B, H, W, C]."""
        weights = stack_pairs([self.weights()], self.dtype)
        a, b = (tuple(stacks.like(weights.fuse, [level]) for level in pyramid) for pyramid in (a, b))
        return fuse(weights, a, b, read(weights.read_a, a))[0]


class PairStack(NamedTuple):
    """Parameters of P PairFusions that run together.

    Attributes:
      read_a, read_b: for each level, stacks for P features, whose results are unfolded to 2P: first those of a over b.
      align: the other layers of the alignments, 2P in the same order.
      fuse: P.
    """

    read_a: tuple[Stack, Stack, Stack]
    read_b: tuple[Stack, Stack, Stack]
    align: Stack
    fuse: Stack


def stack_pairs(pairs: Sequence[PairWeights], dtype: Any) -> PairStack:
    """Returns the parameters of all pairs as stacks for computing in `dtype`."""

    def stack_reads(reads):  # [pairs][levels][a over b, b over a]
        of_levels = zip(*reads, strict=True)
        return tuple(stacks.stack_outputs(list(zip(*level, strict=True)), dtype) for level in of_levels)

    return PairStack(
        read_a=stack_reads([pair.read_a for pair in pairs]),
        read_b=stack_reads([pair.read_b for pair in pairs]),
        align=stacks.stack([pair.align_a for pair in pairs] + [pair.align_b for pair in pairs], dtype),
        fuse=stacks.stack([pair.fuse for pair in pairs], dtype),
    )


def read(weights: tuple[Stack, Stack, Stack], pyramid: Pyramid) -> Pyramid:
    """Returns what the first layers of the alignments make of one feature of each pair.

    Args:
      weights: `read_a` or `read_b` of PairStack.
      pyramid: of a or b, stacks of P, or of 1 feature that is in all pairs.
    """
    return tuple(stacks.run(convolve, w, x) for w, x in zip(weights, pyramid, strict=True))


def fuse(weights: PairStack, a: Pyramid, b: Pyramid, read_a: Pyramid) -> Stack:
    """Runs P PairFusions.

    Args:
      weights: of all.
      a: pyramids of the first features: stacks of P, or of 1 that is in all pairs.
      b: of the second ones: stacks of P, or P arrays [B, h, w, C].
      read_a: of a, from `read`.

    Returns:
      A stack of P arrays [B, H, W, C].
    """
    sources = [stacks.append(x, y) for x, y in zip(a, b, strict=True)]
    guides = [
        stacks.unfold(stacks.run(convolve, w, stacks.halves(source)[1], addend=x, slope=LEAKY_RELU), 2)
        for w, source, x in zip(weights.read_b, sources, read_a, strict=True)
    ]
    return stacks.run(convolve, weights.fuse, *stacks.halves(_align(weights.align, sources, guides)))


def _align(weights, source, guides):
    """Runs a stack of alignments from the outputs of their first layers; see PCDAlign."""

    def layer(name):
        return stacks.apply(operator.itemgetter(name), weights)

    def conv(name, *inputs, slope=LEAKY_RELU):
        return stacks.run(convolve, layer(name), *inputs, slope=slope)

    def up(images, scale=1.0):
        return stacks.apply(lambda x: ops.upsample_bilinear_2x(x, scale), images)

    guide = conv("level3_offset2", guides[2])
    aligned = stacks.run(deform, layer("level3_deform"), source[2], guide, slope=LEAKY_RELU)
    for level in (2, 1):
        # The offset feature doubles with the resolution: displacements are in pixels.
        guide = conv(f"level{level}_offset2", guides[level - 1], up(guide, 2.0))
        guide = conv(f"level{level}_offset3", guide)
        sampled = stacks.run(deform, layer(f"level{level}_deform"), source[level - 1], guide)
        aligned = conv(f"level{level}_merge", sampled, up(aligned), slope=LEAKY_RELU if level == 2 else None)
    return aligned
