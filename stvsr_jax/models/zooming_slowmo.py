"""Zooming Slow-Mo: x4 space and x2 time (Xiang et al., CVPR 2020, arXiv 2002.11616)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax.models import encoder
from stvsr_jax.models.contract import BatchShape, Contract, choose_instants
from stvsr_jax.models.layers import LEAKY_RELU, Conv


def _published_layers():
    yield from encoder.published_layers()
    yield "upconv1", ("up1",)
    yield "upconv2", ("up2",)
    yield "HRconv", ("refine",)
    yield "conv_last", ("to_rgb",)


CONTRACT = Contract(
    title="Zooming Slow-Mo",
    paper="2002.11616",
    window_size=4,
    keeps_earlier=True,  # as in the published evaluation
    scale=4,
    steps=2,
    # The compiler reports 57 kB (128x128, CPU); a fifth is added for work space.
    bytes_per_pixel=70_000,
    inference_batch=BatchShape(batch=1, frames=4, height=180, width=320, times=7),
    training_batch=BatchShape(batch=16, frames=4, height=32, width=32, times=7),
    check_fields=encoder.check_fields,
    published_layers=_published_layers,
)


class ZoomingSlowMo(nn.Module):
    """N low-resolution frames to 2N - 1 frames of four times the height and width.

    The defaults are the published sizes: 11,102,771 parameters.
    """

    contract = CONTRACT

    features: int = 64
    front_blocks: int = 5
    back_blocks: int = 40
    groups: int = 8
    remat: bool = False
    dtype: Any = jnp.float32

    def __call__(
        self,
        frames: jax.Array,
        times: jax.Array | None = None,
        *,
        out_size: tuple[int, int] | None = None,
        chunk_rows: int | None = None,
    ) -> jax.Array:
        """Upscales.

        Args:
          frames: [B, N, H, W, 3] in [0, 1], N >= 2, H and W multiples of 4.
          times: [B, 2N - 1], all instants in order; None: the same.
          out_size: (4H, 4W); None: the same.
          chunk_rows: has no effect.

        Returns:
          [B, 2N - 1, 4H, 4W, 3] float32, not clamped.

        Raises:
          ValueError: an argument is not of that shape or size.
        """
        if frames.ndim == 5:  # otherwise the encoder names the shape
            _, count, height, width, _ = frames.shape
            instants = CONTRACT.count_instants(count)
            asked = instants if times is None else times.shape[1]
            size = (CONTRACT.scale * height, CONTRACT.scale * width)
            if asked != instants or tuple(out_size or size) != size:
                out_size = out_size or size
                raise ValueError(
                    f"zooming_slowmo makes {instants} frames of {size[0]}x{size[1]} from {count} of "
                    f"{height}x{width}, not {asked} of {out_size[0]}x{out_size[1]}"
                )
        return self.encode(frames)

    @nn.compact
    def encode(self, frames: jax.Array) -> jax.Array:
        """Renders all instants: the network is one pass, of which `decode` has only to choose.

        Args:
          frames: [B, N, H, W, 3] in [0, 1].

        Returns:
          [B, 2N - 1, 4H, 4W, 3] float32.
        """
        encode = encoder.SpaceTimeEncoder(
            self.features,
            self.front_blocks,
            self.back_blocks,
            self.groups,
            self.remat,
            self.dtype,
            name="encoder",
        )
        x = encode(frames)
        batch, times = x.shape[:2]
        x = x.reshape(batch * times, *x.shape[2:])
        for name in ("up1", "up2"):
            x = Conv(4 * self.features, dtype=self.dtype, name=name)(x, slope=LEAKY_RELU, shuffle=2)
        x = Conv(self.features, dtype=self.dtype, name="refine")(x, slope=LEAKY_RELU)
        x = Conv(3, dtype=self.dtype, name="to_rgb")(x)
        return x.reshape(batch, times, *x.shape[1:]).astype(jnp.float32)

    def decode(
        self,
        encoded: jax.Array,
        times: jax.Array,
        *,
        out_size: tuple[int, int],
        chunk_rows: int | None = None,
        grid: None = None,
    ) -> jax.Array:
        """Chooses instants.

        Args:
          encoded: [B, 2N - 1, 4H, 4W, 3], from `encode`.
          times: [B, T] in [0, 1], each one of the 2N - 1 instants.
          out_size: (4H, 4W).
          chunk_rows: has no effect.
          grid: has no effect.

        Returns:
          [B, T, 4H, 4W, 3] float32.

        Raises:
          ValueError: `out_size` is another.
        """
        if tuple(out_size) != encoded.shape[2:4]:
            raise ValueError(f"out_size={tuple(out_size)} must be {encoded.shape[2:4]}, 4 times the input")
        return choose_instants(encoded, times)
