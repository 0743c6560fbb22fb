"""Training losses, by name: of each value, or of each image."""

import jax
import jax.numpy as jnp


def charbonnier(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns sqrt(d^2 + 1e-6) for each value, float32 (Charbonnier et al., ICIP 1994; both recipes).

    Args:
      prediction: [...] in [0, 1].
      target: the same shape.

    Returns:
      The same shape, float32. The recipes as published sum it over everything; the mean is the default
      here: with Adam the two differ only in epsilon, in clipping and in the logged number.
    """
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.sqrt(difference**2 + 1e-6)


def l1(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns |prediction - target| for each value, float32 [..., H, W, 3]; arguments as of `charbonnier`."""
    return jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32))


def psnr(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns log(1 + MSE / 1e-4) of each image, float32: falls as the mean PSNR rises, up to 40 dB.

    Unlike a mean of squared differences it weighs easy and difficult images alike (after the PSNR loss of Chen et al.,
    ECCV 2022, whose logarithm has no lower bound).

    Args:
      prediction: [..., H, W, C] in [0, 1].
      target: the same shape.

    Returns:
      float32 [...].
    """
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.log1p(jnp.mean(difference**2, axis=(-3, -2, -1)) * 1e4)


LOSSES = {"charbonnier": charbonnier, "l1": l1, "psnr": psnr}
REDUCTIONS = {"mean": jnp.mean, "sum": jnp.sum}
