"""Zooming Slow-Mo: x4 space and x2 time (Xiang et al., CVPR 2020, arXiv 2002.11616)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax.models.encoder import SpaceTimeEncoder
from stvsr_jax.models.layers import LEAKY_RELU, Conv


class ZoomingSlowMo(nn.Module):
    """N low-resolution frames to 2N - 1 frames of four times the height and width.

    The defaults are the published sizes: 11,102,771 parameters.
    """

    features: int = 64
    front_blocks: int = 5
    back_blocks: int = 40
    groups: int = 8
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """Upscales.

        Args:
          frames: [B, N, H, W, 3] in [0, 1], N >= 2, H and W multiples of 4.

        Returns:
          [B, 2N - 1, 4H, 4W, 3] float32, not clamped.

        Raises:
          ValueError: the frames are not of that shape.
        """
        encoder = SpaceTimeEncoder(
            self.features,
            self.front_blocks,
            self.back_blocks,
            self.groups,
            self.remat,
            self.dtype,
            name="encoder",
        )
        x = encoder(frames)
        batch, times = x.shape[:2]
        x = x.reshape(batch * times, *x.shape[2:])
        for name in ("up1", "up2"):
            x = Conv(4 * self.features, dtype=self.dtype, name=name)(x, slope=LEAKY_RELU, shuffle=2)
        x = Conv(self.features, dtype=self.dtype, name="refine")(x, slope=LEAKY_RELU)
        x = Conv(3, dtype=self.dtype, name="to_rgb")(x)
        return x.reshape(batch, times, *x.shape[1:]).astype(jnp.float32)
