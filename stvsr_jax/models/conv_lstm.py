"""Bidirectional deformable ConvLSTM (Zooming Slow-Mo, arXiv 2002.11616, sec. 3.3).

The states are aligned to the current feature before the gates read them:

    h' = FusionH(x_t, h),  c' = FusionC(x_t, c),  i, f, o, g = conv[x_t, h']
    c = sigmoid(f) c' + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c)

Both directions share their weights, so they run as one batch of 2B. What depends on the features alone is
computed for all times before the scan; both states are aligned side by side (`pcd`).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax.models import pcd
from stvsr_jax.models.layers import Conv, Weights, convolve


class CellWeights(NamedTuple):
    """The parameters of the cell; pyramids and fusions for the hidden and the cell state, side by side."""

    pyramids: pcd.Layers
    fusions: pcd.JoinedPairs
    gates: Weights


class DeformableConvLSTMCell(nn.Module):
    """Declares the parameters of one time step."""

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> CellWeights:
        """Returns the parameters."""
        sizes = dict(features=self.features, dtype=self.dtype)
        states = ("hidden", "cell")
        return CellWeights(
            pcd.join_pyramids([pcd.FeaturePyramid(**sizes, name=f"pyramid_{s}").weights() for s in states]),
            pcd.join_pairs(
                [pcd.PairFusion(**sizes, groups=self.groups, name=f"fusion_{s}").weights() for s in states]
            ),
            Conv(4 * self.features, dtype=self.dtype, name="gates").weights(2 * self.features),
        )


class BidirectionalConvLSTM(nn.Module):
    """The cell over a sequence and over its reverse, joined by a 1x1 convolution at each time."""

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

        def both_directions(y):
            y = y.reshape(batch, times, *y.shape[1:]).swapaxes(0, 1)  # [T, B, h, w, .]
            return jnp.concatenate([y, y[::-1]], axis=1)  # [T, 2B, h, w, .]

        def step(states, known):
            states = advance(weights, states, known)
            return states, states[..., : self.features]

        if self.remat:
            step = jax.checkpoint(step, prevent_cse=False)
        zeros = jnp.zeros((2 * batch, *frame[:-1], 2 * self.features), self.dtype)
        _, hidden = jax.lax.scan(step, zeros, jax.tree.map(both_directions, known))

        forward, backward = hidden[:, :batch], hidden[::-1, batch:]  # [T, B, H, W, C]
        merge = Conv(self.features, kernel_size=1, dtype=self.dtype, name="merge")
        merged = merge(*(d.reshape(times * batch, *frame) for d in (forward, backward)))
        return merged.reshape(times, batch, *frame).swapaxes(0, 1)


class KnownBeforehand(NamedTuple):
    """What one step needs of its feature.

    Attributes:
      pyramids: that align the hidden and the cell state, side by side; they share the first level.
      read: what the fusions' first layers make of them.
      gates: what the gates make of the feature, with the bias.
    """

    pyramids: pcd.Pyramid
    read: pcd.Pyramid
    gates: jax.Array


def read_features(weights: CellWeights, x: jax.Array) -> KnownBeforehand:
    """Computes all that depends on the features [B, H, W, C] alone."""
    x = x.astype(weights.gates.kernel.dtype)
    pyramids = pcd.build_pyramids(weights.pyramids, x)
    kernel = weights.gates.kernel[:, :, : x.shape[-1]]
    gates = convolve(Weights(kernel, weights.gates.bias), x)
    return KnownBeforehand(pyramids, pcd.read(weights.fusions.read_a, pyramids), gates)


def advance(weights: CellWeights, states: jax.Array, known: KnownBeforehand) -> jax.Array:
    """Advances one step.

    Args:
      weights: of the cell.
      states: [B, H, W, 2C], hidden and cell state side by side.
      known: of the step's feature.

    Returns:
      The next states.
    """
    pyramids = pcd.build_pyramids(weights.pyramids, states)
    read = pcd.read(weights.fusions.read_b, pyramids)
    aligned = pcd.fuse_pairs(weights.fusions, known.pyramids, pyramids, known.read, read)
    hidden, cell = jnp.split(aligned, 2, axis=-1)
    kernel = weights.gates.kernel[:, :, hidden.shape[-1] :]
    gates = known.gates + convolve(Weights(kernel, jnp.zeros_like(weights.gates.bias)), hidden)
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return jnp.concatenate([nn.sigmoid(o) * jnp.tanh(cell), cell], axis=-1)
