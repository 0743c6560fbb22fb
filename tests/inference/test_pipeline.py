"""Outputs and their times with a network that blends."""

import time
from fractions import Fraction

import numpy as np
import pytest

from stvsr_jax.inference import pipeline
from stvsr_jax.video.sequential_reader import TimedFrame


def blend(frames, times, device):
    """[B, N, 2, 2, 3] and times of each window -> [B, T, 2, 2, 3]."""
    return np.stack([blend_window(window, row) for window, row in zip(frames, times, strict=True)])


def blend_window(frames, times):
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
    groups = pipeline.group(pipeline.plan(frames, time=count, **kwargs))
    outputs = [out for window in pipeline.render(groups, blend) for out in window]
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
    rendered = pipeline.render(pipeline.group(windows), slow_on_first, devices=3)
    outputs = [out for window in rendered for out in window]
    assert [out.frame.time for out in outputs] == [Fraction(n, 2) for n in range(24)]
    assert [int(out.frame.image[0, 0, 0]) for out in outputs[::2]] == list(range(12))
    assert set(seen) == {0, 1, 2}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_is_done_is_skipped_and_groups_stay_the_same(size):
    def groups(skip=0):
        windows = pipeline.plan(timed(range(9), range(9), 9), window_size=4, time=2)
        return list(pipeline.group(windows, size=size, skip=skip))

    def render(given):
        calls = []

        def predict(frames, times, device):
            calls.append((frames.tobytes(), tuple(map(tuple, times))))
            return blend(frames, times, device)

        rendered = pipeline.render(given, predict, size=size)
        return [[(o.frame.time, int(o.frame.image[0, 0, 0])) for o in window] for window in rendered], calls

    whole, calls = render(groups())
    assert [len(window) for window in whole] == [7, 6, 5]
    assert [len(frames) for frames, _ in calls] == [size * 4 * 12] * -(-3 // size)
    for done, left in ((7, 2), (13, 1), (18, 0)):
        rest, again = render(groups(done))
        assert rest == whole[3 - left :] and again == calls[len(calls) - len(again) :]
    for count in (8, 19):
        with pytest.raises(ValueError, match="not the one"):
            groups(count)


def test_windows_of_a_group_may_have_different_instants():
    windows = pipeline.plan(timed(range(9), range(9), 9), window_size=2, time=2, keep_earlier=False)
    assert {len(window.times) for window in windows} == {2, 3}
    frames = timed(range(9), range(9), 9)
    rendered = [
        list(pipeline.render(pipeline.group(pipeline.plan(frames, window_size=2, time=2, keep_earlier=False),
                                            size=size), blend, size=size))
        for size in (1, 3)
    ]  # fmt: skip
    one, three = ([[o.frame.time for o in window] for window in batch] for batch in rendered)
    assert one == three and len(one) == 8


def test_an_error_of_the_network_comes_out():
    def broken(frames, times, device):
        raise OSError("broken")

    windows = pipeline.plan(timed(range(9), range(9), 9), window_size=4)
    with pytest.raises(OSError, match="broken"):
        list(pipeline.render(pipeline.group(windows), broken))
