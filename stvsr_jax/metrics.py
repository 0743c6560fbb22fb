"""Fidelity of predicted frames, computed on the device."""

import jax
import jax.numpy as jnp


def luma(rgb: jax.Array) -> jax.Array:
    """Return Y of BT.601, limited range, in units of 0..255.

    Args:
      rgb: [..., 3] in [0, 1].

    Returns:
      [...] float32: 16 + 65.481 R + 128.553 G + 24.966 B.
    """
    weights = jnp.array([65.481, 128.553, 24.966], jnp.float32)
    return 16.0 + jnp.sum(rgb.astype(jnp.float32) * weights, axis=-1)


def psnr(prediction: jax.Array, target: jax.Array, *, peak: float) -> jax.Array:
    """Return the peak signal-to-noise ratio of each image in dB.

    Args:
      prediction: [..., H, W] or, for several channels as one image, reshaped so.
      target: the same shape.
      peak: the largest value an image can take, 1 or 255.

    Returns:
      [...] float32; infinite where the images are equal.
    """
    error = jnp.mean((prediction.astype(jnp.float32) - target.astype(jnp.float32)) ** 2, axis=(-2, -1))
    return 20.0 * jnp.log10(jnp.float32(peak)) - 10.0 * jnp.log10(error)


def psnr_y(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Return PSNR of Y in dB for frames [..., H, W, 3] in [0, 1], neither clamped nor rounded: [...]."""
    return psnr(luma(prediction), luma(target), peak=255.0)
