"""tOF of motions that are known."""

import sys

import numpy as np
import pytest

from stvsr_jax.evaluation import consistency


def texture(shift):
    """A smooth texture moved `shift` pixels to the right, uint8 [64, 96, 3]."""
    y, x = np.mgrid[:64, :96]
    waves = np.sin((x - shift) / 5) * np.cos(y / 7) + 0.5 * np.sin((x - shift) / 11 + y / 9)
    return np.round(127 + 70 * waves).astype(np.uint8)[..., None].repeat(3, axis=-1)


def test_flow_is_the_motion_in_pixels():
    inner = consistency.flow(texture(0), texture(2))[16:-16, 16:-16]
    np.testing.assert_allclose(np.median(inner, axis=(0, 1)), [2, 0], atol=0.1)


def test_same_motion_scores_zero():
    pair = texture(0), texture(2)
    assert consistency.flow_distance(pair, pair) == 0.0


def test_held_frame_scores_the_motion_it_lacks():
    held, moving = (texture(0), texture(0)), (texture(0), texture(2))
    assert consistency.flow_distance(held, moving) == pytest.approx(2.0, abs=0.25)


def test_float_frames_are_rounded():
    pair, target = (texture(0), texture(1)), (texture(0), texture(2))
    unit = tuple(frame.astype(np.float32) / 255 for frame in pair)
    assert consistency.flow_distance(unit, target) == consistency.flow_distance(pair, target)
    values = np.array([-0.3, 0.0, 0.5, 1.2], np.float32)
    np.testing.assert_array_equal(consistency.to_uint8(values), [0, 0, 128, 255])


def test_missing_opencv_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'stvsr-jax\[evaluation\]'"):
        consistency.import_opencv()
