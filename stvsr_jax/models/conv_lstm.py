"""Bidirectional deformable ConvLSTM (Zooming Slow-Mo, arXiv 2002.11616, sec. 3.3).

The states are aligned to the current feature before the gates read them:

    h' = FusionH(x_t, h),  c' = FusionC(x_t, c),  i, f, o, g = conv[x_t, h']
    c = sigmoid(f) c' + sigmoid(i) tanh(g),  h = sigmoid(o) tanh(c)

Both directions share their weights, so they run as one batch of 2B. What depends on the features alone is
computed for all times before the scan.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models import offsets, pcd, recurrence
from stvsr_jax.models.layers import Conv, Weights, convolve


class StateWeights(NamedTuple):
    """The parameters that align one of the two states, or both."""

    pyramid: pcd.Layers
    fusion: pcd.PairWeights | pcd.PairStack


class CellWeights(NamedTuple):
    """The parameters of the cell; the gates' kernel is split into what reads the feature and the hidden state."""

    hidden: StateWeights
    cell: StateWeights
    gates_of_feature: Weights
    gates_of_hidden: Weights


class CellStack(NamedTuple):
    """The parameters of the cell with those of both states side by side, which are then aligned as one."""

    states: StateWeights
    gates_of_feature: Weights
    gates_of_hidden: Weights


def stack_states(weights: CellWeights) -> CellStack:
    """Returns the same parameters side by side."""
    states = (weights.hidden, weights.cell)
    both = StateWeights(
        pcd.stack_weights([w.pyramid for w in states]), pcd.stack_pairs([w.fusion for w in states])
    )
    return CellStack(both, weights.gates_of_feature, weights.gates_of_hidden)


class DeformableConvLSTMCell(nn.Module):
    """Declares the parameters of one time step."""

    features: int
    groups: int = 8
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> CellWeights:
        """Returns the parameters."""
        sizes = dict(features=self.features, dtype=self.dtype)
        states = []
        for name in ("hidden", "cell"):
            pyramid = pcd.FeaturePyramid(**sizes, name=f"pyramid_{name}").weights()
            fusion = pcd.PairFusion(**sizes, groups=self.groups, name=f"fusion_{name}").weights()
            states.append(StateWeights(pyramid, fusion))
        gates = Conv(4 * self.features, dtype=self.dtype, name="gates").weights(2 * self.features)
        of_feature, of_hidden = jnp.split(gates.kernel, 2, axis=2)
        return CellWeights(
            *states, Weights(of_feature, gates.bias), Weights(of_hidden, jnp.zeros_like(gates.bias))
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
        if ops.prefers_stacks(self.dtype):
            weights = stack_states(weights)
        known = read_features(weights, x.reshape(batch * times, *frame))

        def both_directions(y):  # [.., B T, h, w, .] -> [T, .., 2B, h, w, .]
            y = y.reshape(*y.shape[:-4], batch, times, *y.shape[-3:])
            y = jnp.moveaxis(y, -4, 0)
            return jnp.concatenate([y, y[::-1]], axis=-4)

        def step(weights, states, known):
            with offsets.collect_in_loop() as found:
                states = advance(weights, states, known)
            return states, (states[0], found)

        zeros = jnp.zeros((2 * batch, *frame), self.dtype)
        known = jax.tree.map(functools.partial(ops.arrange, both_directions), known)
        if self.remat:
            step = functools.partial(jax.checkpoint(step, prevent_cse=False), weights)
            _, (hidden, found) = jax.lax.scan(step, (zeros, zeros), known)
        else:
            _, (hidden, found) = recurrence.scan(step, weights, (zeros, zeros), known)
        offsets.record_means(found)

        forward, backward = hidden[:, :batch], hidden[::-1, batch:]  # [T, B, H, W, C]
        merge = Conv(self.features, kernel_size=1, dtype=self.dtype, name="merge")
        merged = merge(*(d.reshape(times * batch, *frame) for d in (forward, backward)))
        return merged.reshape(times, batch, *frame).swapaxes(0, 1)


class KnownBeforehand(NamedTuple):
    """What one step needs of its feature.

    Attributes:
      pyramids: that align the hidden and the cell state; of a stack one with both, levels [2 or 1, B, h, w, C].
      reads: what the two fusions' first layers make of them; of a stack [4, B, h, w, C].
      gates: what the gates make of the feature, with the bias.
    """

    pyramids: tuple[pcd.Pyramid, pcd.Pyramid] | pcd.Pyramid
    reads: tuple[pcd.Pyramid, pcd.Pyramid] | pcd.Pyramid
    gates: jax.Array


def read_features(weights: CellWeights | CellStack, x: jax.Array) -> KnownBeforehand:
    """Computes all that depends on the features [B, H, W, C] alone."""
    x = x.astype(weights.gates_of_feature.kernel.dtype)
    gates = convolve(weights.gates_of_feature, x)
    if isinstance(weights, CellStack):
        pyramid = pcd.build_pyramid(weights.states.pyramid, x[None])
        return KnownBeforehand(pyramid, pcd.read(weights.states.fusion.read_a, pyramid), gates)
    states = (weights.hidden, weights.cell)
    pyramids = tuple(pcd.build_pyramid(w.pyramid, x) for w in states)
    reads = tuple(pcd.read(w.fusion.read_a, p) for w, p in zip(states, pyramids, strict=True))
    return KnownBeforehand(pyramids, reads, gates)


def advance(
    weights: CellWeights | CellStack, states: tuple[jax.Array, jax.Array], known: KnownBeforehand
) -> tuple[jax.Array, jax.Array]:
    """Advances one step.

    Args:
      weights: of the cell.
      states: (hidden, cell), each [B, H, W, C].
      known: of the step's feature, made with the same weights.

    Returns:
      The next states.
    """
    hidden, cell = _align_states(weights, states, known)
    gates = convolve(weights.gates_of_hidden, hidden, addend=known.gates)
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(cell), cell


def _align_states(weights, states, known):
    if isinstance(weights, CellStack):
        _, level2, level3 = pcd.build_pyramid(weights.states.pyramid, jnp.stack(states))
        pyramid = (states, level2, level3)
        return pcd.fuse_pairs(weights.states.fusion, known.pyramids, pyramid, known.reads)
    return [
        pcd.fuse_pair(w.fusion, pyramid, pcd.build_pyramid(w.pyramid, state), read)
        for w, state, pyramid, read in zip(
            (weights.hidden, weights.cell), states, known.pyramids, known.reads, strict=True
        )
    ]
