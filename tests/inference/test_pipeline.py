"""Outputs and their times with a network that blends."""

import time
from fractions import Fraction

import numpy as np
import pytest

from stvsr_jax.inference import pipeline
from stvsr_jax.inference.video_reader import TimedFrame


def blend(frames, times, device):
    return np.stack(
        [np.interp(float(t), range(len(frames)), frames[:, 0, 0, 0]) * np.ones((2, 2, 3)) for t in times]
    ).astype(np.uint8)


def timed(values, times, end):
    steps = np.diff([*times, end])
    return [
        TimedFrame(np.full((2, 2, 3), value, np.uint8), Fraction(t), Fraction(int(step)))
        for value, t, step in zip(values, times, steps, strict=True)
    ]


def run(frames, count, **kwargs):
    outputs = [
        out for batch in pipeline.render(pipeline.plan(frames, time=count, **kwargs), blend) for out in batch
    ]
    return [(int(o.frame.image[0, 0, 0]), o.frame.time, o.frame.duration, o.offset) for o in outputs]


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


def test_a_given_rate_interpolates_at_its_own_instants():
    frames = timed([0, 30, 60, 90], [0, 1, 2, 3], 4)
    outputs = run(frames, 1, window_size=2, keep_earlier=False, fps=Fraction(3, 2))
    assert [(value, time) for value, time, _, _ in outputs] == [
        (value, Fraction(2 * n, 3)) for n, value in enumerate([0, 20, 40, 60, 80, 90])
    ]


def test_windows_run_on_every_device_and_come_in_order():
    seen = []

    def slow_on_first(frames, times, device):
        time.sleep(0.02 if device == 0 else 0)
        seen.append(device)
        return blend(frames, times, device)

    windows = pipeline.plan(timed(range(12), range(12), 12), window_size=2, keep_earlier=False, time=2)
    outputs = [out for batch in pipeline.render(windows, slow_on_first, devices=3) for out in batch]
    assert [out.frame.time for out in outputs] == [Fraction(n, 2) for n in range(24)]
    assert [int(out.frame.image[0, 0, 0]) for out in outputs[::2]] == list(range(12))
    assert set(seen) == {0, 1, 2}


def test_what_is_done_is_skipped_whole_windows_at_a_time():
    def windows():
        return pipeline.plan(timed(range(9), range(9), 9), window_size=4, time=2)

    sizes = [len(window.outputs) for window in windows()]
    assert sizes == [7, 6, 5]
    rest = pipeline.skip_outputs(windows(), 13)
    assert [window.outputs for window in rest] == [window.outputs for window in windows()][2:]
    assert list(pipeline.skip_outputs(windows(), 18)) == []
    for count in (8, 19):
        with pytest.raises(ValueError, match="not the one"):
            pipeline.skip_outputs(windows(), count)


def test_an_error_of_the_network_comes_out():
    def broken(frames, times, device):
        raise OSError("broken")

    windows = pipeline.plan(timed(range(9), range(9), 9), window_size=4)
    with pytest.raises(OSError, match="broken"):
        list(pipeline.render(windows, broken))
