"""A network that is neither of the two: twice the size, thirds of the time between frames, windows of three.

It repeats pixels, blends the two nearest frames, and multiplies each colour by a parameter. What follows is all that
the package needs to know: a module with its contract, and the line that registers it.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from stvsr_jax.models.contract import BatchShape, Contract, choose_instants

NAME = "thirds"


class Thirds(nn.Module):
    """[B, N, H, W, 3] -> [B, 3 (N - 1) + 1, 2H, 2W, 3]."""

    contract = Contract(
        title="Thirds",
        paper="0000.00000",
        window_size=3,
        keeps_earlier=False,
        scale=2,
        steps=3,
        bytes_per_pixel=1000,
        inference_batch=BatchShape(batch=1, frames=3, height=8, width=12, times=7),
        training_batch=BatchShape(batch=2, frames=3, height=4, width=8, times=7),
    )

    remat: bool = False
    dtype: Any = jnp.float32

    def __call__(self, frames, times, *, out_size, chunk_rows=None):
        return self.encode(frames)

    @nn.compact
    def encode(self, frames):
        gain = self.param("gain", nn.initializers.ones, (3,))
        colours = gain.astype(self.dtype) * blend(frames.astype(self.dtype))
        return colours.repeat(2, axis=2).repeat(2, axis=3).astype(jnp.float32)

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        return choose_instants(encoded, times)


def blend(frames):
    """Returns the instants of [B, N, ...]: each frame, and two blends of it and the next."""
    count = 3 * (frames.shape[1] - 1) + 1
    steps = [
        frames[:, k // 3] * (1 - k % 3 / 3) + frames[:, min(k // 3 + 1, frames.shape[1] - 1)] * (k % 3 / 3)
        for k in range(count)
    ]
    return jnp.stack(steps, axis=1)


def expect(frames, gain=1.0):
    """Returns what it makes of uint8 [N, H, W, 3]: float64 [3 (N - 1) + 1, 2H, 2W, 3], in levels, not rounded."""
    frames = np.asarray(frames, np.float64)
    pairs = [
        frames[i] + (frames[i + 1] - frames[i]) * j / 3 for i in range(len(frames) - 1) for j in range(3)
    ]
    return np.clip(np.stack([*pairs, frames[-1]]) * gain, 0, 255).repeat(2, 1).repeat(2, 2)
