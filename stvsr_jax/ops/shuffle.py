"""Sub-pixel rearrangement (Shi et al., CVPR 2016, arXiv 1609.05158), in PyTorch's channel order."""

import jax
import jax.numpy as jnp


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Moves blocks of factor**2 channels into space.

    Output channel c at (factor*y + i, factor*x + j) is input channel c*factor**2 + factor*i + j at
    (y, x): the order of `torch.nn.PixelShuffle`, which published weights rely on.

    Args:
      x: [..., H, W, C * factor**2].
      factor: spatial enlargement, a positive integer.

    Returns:
      [..., factor*H, factor*W, C].

    Raises:
      ValueError: the channels do not divide by factor**2.
    """
    *batch, height, width, channels = x.shape
    if factor < 1 or channels % factor**2:
        raise ValueError(f"pixel_shuffle: {channels} channels do not divide by factor**2, factor={factor}")
    if factor == 1:
        return x
    out = channels // factor**2
    x = x.reshape(-1, height, width, out, factor, factor)
    x = jnp.transpose(x, (0, 1, 4, 2, 5, 3))  # [B, H, i, W, j, C]
    return x.reshape(*batch, height * factor, width * factor, out)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Undoes `pixel_shuffle`: [..., factor*H, factor*W, C] to [..., H, W, C * factor**2]."""
    *batch, height, width, channels = x.shape
    height, width = height // factor, width // factor
    x = x.reshape(-1, height, factor, width, factor, channels)
    x = jnp.transpose(x, (0, 1, 3, 5, 2, 4))  # [B, H, W, C, i, j]
    return x.reshape(*batch, height, width, channels * factor**2)
