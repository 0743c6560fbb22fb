"""Outputs and their times with a network that blends."""

from fractions import Fraction

import numpy as np

from stvsr_jax.inference import pipeline
from stvsr_jax.inference.video_reader import TimedFrame


def blend(frames, times):
    return np.stack(
        [np.interp(float(t), range(len(frames)), frames[:, 0, 0, 0]) * np.ones((2, 2, 3)) for t in times]
    ).astype(np.uint8)


def timed(values, times, end):
    steps = np.diff([*times, end])
    return [
        TimedFrame(np.full((2, 2, 3), value, np.uint8), Fraction(t), Fraction(int(step)))
        for value, t, step in zip(values, times, steps, strict=True)
    ]


def run(frames, time, **kwargs):
    outputs = pipeline.upscale(frames, blend, time=time, **kwargs)
    return [(int(out.image[0, 0, 0]), out.time, out.duration, offset) for out, offset, _ in outputs]


def test_uneven_times_are_divided_equally():
    half = Fraction(1, 2)
    assert run(timed([10, 20, 40], [0, 2, 3], 7), 2, window_size=2) == [
        (10, 0, 1, 0),
        (15, 1, 1, half),
        (20, 2, half, 0),
        (30, 2 + half, half, half),
        (40, 3, 2, 0),
        (40, 5, 2, 0),
    ]


def test_times_follow_each_other_for_every_window():
    for size in (2, 4):
        for length in range(1, 10):
            outputs = run(timed(range(length), range(length), length), 2, window_size=size)
            assert [out[1] for out in outputs] == [Fraction(n, 2) for n in range(2 * length)]


def test_nothing_is_blended_across_a_cut():
    frames = timed([10] * 12 + [200] * 12, range(24), 24)
    values = [out[0] for out in run(frames, 2, window_size=4, scene_threshold=10.0)]
    assert values == [10] * 24 + [200] * 24
    values = [out[0] for out in run(frames, 2, window_size=4)]
    assert values[23] == 105
