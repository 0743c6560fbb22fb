"""Bidirectional deformable ConvLSTM (Zooming Slow-Mo, arXiv 2002.11616, sec. 3.3).

The states are aligned to the current feature before the gates read them. Both directions share
their weights, so they run as one batch of 2B, and what depends on the features alone (their
pyramids) is computed before the scan over time.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax.models.layers import Conv
from stvsr_jax.models.pcd import FeaturePyramid, PairFusion, Pyramid


class DeformableConvLSTMCell(nn.Module):
    """One time step: aligns both states to the feature, then an LSTM update."""

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    def setup(self):
        sizes = dict(features=self.features, dtype=self.dtype)
        self.pyramid_hidden = FeaturePyramid(**sizes)
        self.pyramid_cell = FeaturePyramid(**sizes)
        self.fusion_hidden = PairFusion(**sizes, groups=self.groups)
        self.fusion_cell = PairFusion(**sizes, groups=self.groups)
        self.gates = Conv(4 * self.features, dtype=self.dtype)

    def pyramids(self, x: jax.Array) -> tuple[Pyramid, Pyramid]:
        """Returns the pyramids of a feature [B, H, W, C] that align the hidden and the cell state."""
        return self.pyramid_hidden(x), self.pyramid_cell(x)

    def __call__(self, state, pyramids: tuple[Pyramid, Pyramid]):
        """Advances one step.

        Args:
          state: (hidden, cell), each [B, H, W, C].
          pyramids: of the current feature, from `pyramids`.

        Returns:
          ((hidden, cell), hidden).
        """
        hidden, cell = state
        for_hidden, for_cell = pyramids
        hidden = self.fusion_hidden(for_hidden, self.pyramid_hidden(hidden))
        cell = self.fusion_cell(for_cell, self.pyramid_cell(cell))
        gates = self.gates(for_hidden[0], hidden)
        i, f, o, g = jnp.split(gates, 4, axis=-1)
        cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
        hidden = nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden


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
        cell = DeformableConvLSTMCell(self.features, self.groups, dtype=self.dtype, name="cell")

        pyramids = cell.pyramids(x.reshape(batch * times, *frame))

        def both_directions(level):
            level = level.reshape(batch, times, *level.shape[1:]).swapaxes(0, 1)  # [T, B, h, w, C]
            return jnp.concatenate([level, level[::-1]], axis=1)  # [T, 2B, h, w, C]

        zeros = jnp.zeros((2 * batch, *frame), self.dtype)
        step = DeformableConvLSTMCell.__call__
        if self.remat:
            step = nn.remat(step, prevent_cse=False)
        scan = nn.scan(
            step,
            variable_broadcast="params",
            variable_axes={"intermediates": 0},
            split_rngs={"params": False},
        )
        _, hidden = scan(cell, (zeros, zeros), jax.tree.map(both_directions, pyramids))

        forward, backward = hidden[:, :batch], hidden[::-1, batch:]  # [T, B, H, W, C]
        merge = Conv(self.features, kernel_size=1, dtype=self.dtype, name="merge")
        merged = merge(*(d.reshape(times * batch, *frame) for d in (forward, backward)))
        return merged.reshape(times, batch, *frame).swapaxes(0, 1)
