"""Baselines against the numpy bicubic and written-out weights."""

from fractions import Fraction

import numpy as np
import pytest

from stvsr_jax import bicubic
from stvsr_jax.evaluation.baselines import BASELINES, Baseline

TIMES = [Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(1)]


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (2, 6, 9, 3)).astype(np.uint8)


def enlarge(frames):
    return bicubic.imresize(frames.astype(np.float64), scale=4.0)


def test_bicubic_blend_weighs_neighbours_by_nearness(frames):
    a, b = enlarge(frames)
    expected = np.stack([a, 0.75 * a + 0.25 * b, (a + b) / 2, b]) / 255
    result = Baseline("bicubic_blend").predict(frames, TIMES, space=4, rounded=False)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_bicubic_repeat_holds_the_last_given_frame(frames):
    a, b = enlarge(frames)
    result = Baseline("bicubic_repeat").predict(frames, TIMES, space=4, rounded=False)
    np.testing.assert_allclose(result, np.stack([a, a, a, b]) / 255, atol=2e-6)


def test_bilinear_blend_of_a_ramp():
    # Pixel centres at half-integers: twice as large, 0 and 1 become 0, 1/4, 3/4, 1.
    ramp = np.zeros((2, 1, 2, 3), np.float32)
    ramp[:, :, 1] = 1.0
    ramp[1] += 0.5
    result = Baseline("bilinear_blend").predict(ramp, [0, 0.5], space=2, rounded=False)
    np.testing.assert_allclose(result[0, 0, :, 0], [0, 0.25, 0.75, 1], atol=1e-6)
    np.testing.assert_allclose(result[1, 1, :, 2], [0.25, 0.5, 1, 1.25], atol=1e-6)


def test_rounded_output_is_clamped_and_8_bit(frames):
    exact = Baseline("bicubic_blend").predict(frames, TIMES, space=4, rounded=False)
    result = Baseline("bicubic_blend").predict(frames, TIMES, space=4)
    assert exact.min() < 0 and exact.max() > 1
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result, np.clip(exact, 0, 1) * 255, atol=0.5001)


@pytest.mark.parametrize("name", BASELINES)
def test_size_is_that_of_the_networks(frames, name):
    assert Baseline(name).predict(frames, [0.5], space=2.5).shape == (1, 15, 23, 3)
