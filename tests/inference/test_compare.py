"""Side by side pictures."""

from fractions import Fraction

import numpy as np

from stvsr_jax.inference import compare
from stvsr_jax.inference.video_reader import TimedFrame


def frame(value, size):
    return TimedFrame(np.full((*size, 3), value, np.uint8), Fraction(0), Fraction(1))


def test_input_is_left_and_output_right():
    joined = compare.side_by_side(frame(200, (80, 120)).image, frame(50, (40, 60)).image, "output")
    assert joined.shape == (80, 240, 3)
    assert (joined[40:, :120] == 50).all() and (joined[40:, 120:] == 200).all()
    assert (joined[:20, :40] == 0).any() and (joined[:20, 120:160] == 0).any()  # the labels


def test_middle_pair_is_shown():
    collector = compare.PictureOfTwoMoments(3)
    for i in range(6):
        source = frame(10 * i, (20, 30))
        collector.add(frame(100 + i, (40, 60)), Fraction(0), source)
        collector.add(frame(200 + i, (40, 60)), Fraction(1, 2), source)
    picture = collector.render()
    assert picture.shape == (80, 180, 3)  # input's pixels, bicubic, output
    assert (picture[39, [30, 90, 179], 0] == [30, 30, 103]).all() and picture[79, 179, 0] == 203


def test_without_interpolation_one_moment_is_shown():
    collector = compare.PictureOfTwoMoments(1)
    for i in range(3):
        collector.add(frame(100 + i, (40, 60)), Fraction(0), frame(10 * i, (20, 30)))
    picture = collector.render()
    assert picture.shape == (40, 180, 3) and picture[39, 179, 0] == 101
