"""Temporal consistency: tOF, how far the motion between predicted frames is from the true motion.

After Chu et al. (TecoGAN, SIGGRAPH 2020): dense flow between two consecutive frames by Farneback's method, once
for the ground truth and once for the prediction; the score is the mean length of their difference in pixels, 0
for the same motion. Grey frames, 8-bit (OpenCV's flow takes nothing else), and the parameters below. Whole
frames are compared where TecoGAN's script crops borders, so published values are near but not the same.
"""

import numpy as np

from stvsr_jax import bicubic

# OpenCV's own example: pyramid scale, levels, window, iterations, polynomial size and sigma, flags.
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)


def import_opencv():
    """Returns the module cv2.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError("tOF needs OpenCV; install it with: pip install 'stvsr-jax[evaluation]'") from error
    return cv2


def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the motion from one frame to the next.

    Args:
      first: uint8 [H, W, 3], RGB.
      second: uint8 [H, W, 3], RGB.

    Returns:
      float32 [H, W, 2], (x, y) in pixels.
    """
    cv2 = import_opencv()
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    return cv2.calcOpticalFlowFarneback(*grey, None, *_FARNEBACK)


def flow_distance(prediction: tuple[np.ndarray, np.ndarray], target: tuple[np.ndarray, np.ndarray]) -> float:
    """Returns tOF of two consecutive frames in pixels.

    Args:
      prediction: two consecutive frames, uint8 or float32 in [0, 1] (rounded here), [H, W, 3].
      target: the true ones, uint8 [H, W, 3].
    """
    difference = flow(*map(to_uint8, prediction)) - flow(*target)
    return float(np.mean(np.hypot(difference[..., 0], difference[..., 1]), dtype=np.float64))


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Returns frames as 8-bit images: float32 in [0, 1] clamped and rounded, halves upwards; uint8 as they are."""
    if frames.dtype == np.uint8:
        return frames
    return bicubic.to_uint8(frames * 255.0)
