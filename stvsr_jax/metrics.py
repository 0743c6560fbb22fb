"""Fidelity of predicted frames, computed on the device.

Y is that of BT.601 in limited range, not rounded; no border is cropped. SSIM is that of Wang et al. (2004):
a Gaussian window of 11x11, sigma 1.5, over the places where it fits whole, population variances. scikit-image
computes the same with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.
"""

import jax
import jax.numpy as jnp
import numpy as np

SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_K = (0.01, 0.03)


def luma(rgb: jax.Array) -> jax.Array:
    """Returns Y of BT.601, limited range, in units of 0..255.

    Args:
      rgb: [..., 3] in [0, 1].

    Returns:
      [...] float32: 16 + 65.481 R + 128.553 G + 24.966 B.
    """
    weights = jnp.array([65.481, 128.553, 24.966], jnp.float32)
    return 16.0 + jnp.sum(rgb.astype(jnp.float32) * weights, axis=-1)


def psnr(prediction: jax.Array, target: jax.Array, *, peak: float) -> jax.Array:
    """Returns the peak signal-to-noise ratio of each image in dB.

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
    """Returns PSNR of Y in dB for frames [..., H, W, 3] in [0, 1], neither clamped nor rounded: [...]."""
    return psnr(luma(prediction), luma(target), peak=255.0)


def psnr_rgb(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns PSNR over all three channels as one image, for frames [..., H, W, 3] in [0, 1]: [...]."""
    flat = (*target.shape[:-2], target.shape[-2] * 3)
    return psnr(prediction.reshape(flat), target.reshape(flat), peak=1.0)


def ssim(prediction: jax.Array, target: jax.Array, *, peak: float) -> jax.Array:
    """Returns the structural similarity of each image.

    Args:
      prediction: [..., H, W], both sides at least `SSIM_WINDOW`.
      target: the same shape.
      peak: the largest value an image can take, 1 or 255.

    Returns:
      [...] float32, at most 1.

    Raises:
      ValueError: the images are smaller than the window.
    """
    if min(target.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"images of {target.shape[-2]}x{target.shape[-1]} are smaller than SSIM's window of {SSIM_WINDOW}"
        )
    # Variances do not change with an offset, and float32 keeps more of them around zero.
    x, y = (image.astype(jnp.float32) - peak / 2 for image in (prediction, target))
    # One pass for all five: [5, ..., H - 10, W - 10].
    mean_x, mean_y, square_x, square_y, product = _blur(jnp.stack([x, y, x * x, y * y, x * y]))
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    mean_x, mean_y = mean_x + peak / 2, mean_y + peak / 2
    c1, c2 = ((k * peak) ** 2 for k in _SSIM_K)
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return jnp.mean(similarity, axis=(-2, -1))


def ssim_y(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns SSIM of Y for frames [..., H, W, 3] in [0, 1]: [...]."""
    return ssim(luma(prediction), luma(target), peak=255.0)


def ssim_rgb(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean SSIM of the three channels for frames [..., H, W, 3] in [0, 1]: [...]."""
    channels = (jnp.moveaxis(frames, -1, -3) for frames in (prediction, target))
    return jnp.mean(ssim(*channels, peak=1.0), axis=-1)


METRICS = {"psnr_y": psnr_y, "ssim_y": ssim_y, "psnr_rgb": psnr_rgb, "ssim_rgb": ssim_rgb}


@jax.jit
def score_frames(prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
    """Returns every metric of `METRICS` for each frame.

    Args:
      prediction: [B, H, W, 3], uint8, or float32 in units of [0, 1], neither clamped nor rounded.
      target: [B, H, W, 3], uint8 or float32 in [0, 1].

    Returns:
      {name: [B] float32}.
    """
    prediction, target = (
        frames.astype(jnp.float32) / 255.0 if frames.dtype == jnp.uint8 else frames
        for frames in (prediction, target)
    )
    return {name: metric(prediction, target) for name, metric in METRICS.items()}


def _blur(image):
    """Weighted means [..., H - 10, W - 10] over the Gaussian windows that fit into [..., H, W].

    Sums of shifted images: a convolution may be computed in TF32 on a GPU, which is far too coarse here.
    """
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (-2, -1):
        axis += image.ndim
        length = image.shape[axis] - SSIM_WINDOW + 1
        shifted = (jax.lax.slice_in_dim(image, k, k + length, axis=axis) for k in range(SSIM_WINDOW))
        image = sum(weight * part for weight, part in zip(weights, shifted, strict=True))
    return image
