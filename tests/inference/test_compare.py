"""Side by side pictures."""

from fractions import Fraction

import numpy as np

from stvsr_jax.inference import compare, pipeline
from stvsr_jax.video.sequential_reader import TimedFrame


def frame(value, size):
    return TimedFrame(np.full((*size, 3), value, np.uint8), Fraction(0), Fraction(1))


def test_input_is_left_and_output_right():
    joined = compare.side_by_side(frame(200, (80, 120)).image, frame(50, (40, 60)).image, "output")
    assert joined.shape == (80, 240, 3)
    assert (joined[40:, :120] == 50).all() and (joined[40:, 120:] == 200).all()
    assert (joined[:20, :40] == 0).any() and (joined[:20, 120:160] == 0).any()  # the labels


def windows(count, time):
    frames = [TimedFrame(frame(10 * i, (20, 30)).image, Fraction(i), Fraction(1)) for i in range(count)]
    return pipeline.plan(frames, window_size=4, time=time)


def predict(frames, times, device):
    """Tones of the input and one more, fractions of ten in between."""
    tones = [np.interp(float(t), range(frames.shape[1]), frames[0, :, 0, 0, 0]) + 1 for t in times[0]]
    return np.stack([np.full((40, 60, 3), tone, np.uint8) for tone in tones])[None]


def test_middle_pair_is_shown():
    picture = compare.picture_of_two_moments(windows(6, 2), predict, Fraction(2))
    assert picture.shape == (80, 180, 3)  # input's pixels, bicubic, output
    assert (picture[39, [30, 90, 179], 0] == [20, 20, 21]).all() and picture[79, 179, 0] == 26


def test_last_pair_is_shown_if_none_comes_later():
    picture = compare.picture_of_two_moments(windows(6, 2), predict, Fraction(5))
    assert picture[39, 179, 0] == 41 and picture[79, 179, 0] == 46


def test_without_interpolation_one_moment_is_shown():
    picture = compare.picture_of_two_moments(windows(3, 1), predict, Fraction(1))
    assert picture.shape == (40, 180, 3) and picture[39, 179, 0] == 1
