"""Bidirectional deformable ConvLSTM (Zooming Slow-Mo, arXiv 2002.11616, sec. 3.3).

Both states are aligned to the current feature before the gates read them:

    h' = FusionH(x_t, h),  c' = FusionC(x_t, c),  i, f, o, g = conv[x_t, h']
    c = sigmoid(f) c' + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c)

Both directions share their weights and run as one batch of 2B. What depends on the features alone is computed for all
times before the scan.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models import offsets, pcd
from stvsr_jax.models.layers import Conv, convolve
from stvsr_jax.ops import ConvWeights, stacks
from stvsr_jax.ops.stacks import Stack


class CellWeights(NamedTuple):
    """The parameters of the cell.

    Attributes:
      pyramid: a stack of two, for the hidden and for the cell state.
      fusion: the same.
      gates_of_feature: the rows of the gates' kernel that read the feature, and the bias.
      gates_of_hidden: those that read the hidden state, without.
    """

    pyramid: Stack
    fusion: pcd.PairStack
    gates_of_feature: ConvWeights
    gates_of_hidden: ConvWeights


class DeformableConvLSTMCell(nn.Module):
    """Declares the parameters of one time step."""

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> CellWeights:
        """Returns the parameters."""
        sizes = dict(features=self.features, dtype=self.dtype)
        pyramids, fusions = [], []
        for name in ("hidden", "cell"):
            pyramids.append(pcd.FeaturePyramid(**sizes, name=f"pyramid_{name}").weights())
            fusions.append(pcd.PairFusion(**sizes, groups=self.groups, name=f"fusion_{name}").weights())
        gates = Conv(4 * self.features, dtype=self.dtype, name="gates").weights(2 * self.features)
        of_feature, of_hidden = jnp.split(gates.kernel, 2, axis=2)
        return CellWeights(
            pyramid=stacks.stack(pyramids, self.dtype),
            fusion=pcd.stack_pairs(fusions, self.dtype),
            gates_of_feature=ConvWeights(of_feature, gates.bias),
            gates_of_hidden=ConvWeights(of_hidden, jnp.zeros_like(gates.bias)),
        )


class BidirectionalConvLSTM(nn.Module):
    """The cell over a sequence and over its reverse, then a 1x1 convolution of both at each time."""

    features: int
    groups: int = 8
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps features [B, T, H, W, C] in time order to [B, T, H, W, C]."""
        batch, times, *frame = x.shape
        weights = DeformableConvLSTMCell(self.features, self.groups, dtype=self.dtype, name="cell")()
        known = read_features(weights, x.reshape(batch * times, *frame))

        def both_directions(y):  # [.., B T, h, w, .] -> [T, .., 2B, h, w, .]
            y = y.reshape(*y.shape[:-4], batch, times, *y.shape[-3:])
            y = jnp.moveaxis(y, -4, 0)
            return jnp.concatenate([y, y[::-1]], axis=-4)

        zeros = jnp.zeros((2 * batch, *frame), self.dtype)
        known = jax.tree.map(functools.partial(ops.arrange, both_directions), known)

        def step(weights, states, known):
            # Means of offsets are outputs of the scan: a tracer must not leave its body otherwise.
            with offsets.collect_in_loop() as found:
                states = advance(weights, states, known)
            return states, (states[0], found)

        _, (hidden, found) = ops.scan(step, weights, (zeros, zeros), known, remat=self.remat)
        offsets.record_means(found)

        forward, backward = hidden[:, :batch], hidden[::-1, batch:]  # [T, B, H, W, C]
        merge = Conv(self.features, kernel_size=1, dtype=self.dtype, name="merge")
        merged = merge(*(d.reshape(times * batch, *frame) for d in (forward, backward)))
        return merged.reshape(times, batch, *frame).swapaxes(0, 1)


class KnownBeforehand(NamedTuple):
    """What one step needs of its feature.

    Attributes:
      pyramid: two pyramids, for aligning the hidden and the cell state: stacks of 1 (full resolution) or 2.
      reads: what the first layers of both fusions make of it: stacks, see `pcd.read`.
      gates: what the gates make of the feature, with the bias, [B, H, W, 4C].
    """

    pyramid: pcd.Pyramid
    reads: pcd.Pyramid
    gates: jax.Array


def read_features(weights: CellWeights, x: jax.Array) -> KnownBeforehand:
    """Computes all that depends on the features [B, H, W, C] alone."""
    x = x.astype(weights.gates_of_feature.kernel.dtype)
    gates = convolve(weights.gates_of_feature, x)
    pyramid = pcd.build_pyramid(weights.pyramid, stacks.like(weights.pyramid, [x]))
    return KnownBeforehand(pyramid, pcd.read(weights.fusion.read_a, pyramid), gates)


def advance(
    weights: CellWeights, states: tuple[jax.Array, jax.Array], known: KnownBeforehand
) -> tuple[jax.Array, jax.Array]:
    """Advances one step.

    Args:
      weights: of the cell.
      states: (hidden, cell), each [B, H, W, C].
      known: of the step's feature, made with the same weights.

    Returns:
      The next states.
    """
    states = list(states)
    _, level2, level3 = pcd.build_pyramid(weights.pyramid, stacks.like(weights.pyramid, states))
    hidden, cell = pcd.fuse(weights.fusion, known.pyramid, (states, level2, level3), known.reads)
    gates = convolve(weights.gates_of_hidden, hidden, addend=known.gates)
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(cell), cell
