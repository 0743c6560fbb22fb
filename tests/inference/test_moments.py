"""Output times written out by hand."""

from fractions import Fraction

import numpy as np
import pytest

from stvsr_jax.inference.moments import divide, plan_moments, sample
from stvsr_jax.video.sequential_reader import TimedFrame


def plan(tones, *, step=Fraction(1), start=Fraction(0), scene_ends=(), **kwargs):
    """[(tone, offsets, times, whether it ends a scene)]."""
    frames = [
        (
            TimedFrame(np.full((2, 2, 3), tone, np.uint8), start + i * step, step),
            i == len(tones) - 1 or i in scene_ends,
        )
        for i, tone in enumerate(tones)
    ]
    return [
        (int(frame.image[0, 0, 0]), [float(m.offset) for m in ms], [float(m.time) for m in ms], is_last)
        for frame, ms, is_last in plan_moments(frames, **kwargs)
    ]


def test_durations_are_divided_and_the_last_frame_is_held():
    assert plan([1, 2, 3], time=2) == [
        (1, [0, 0.5], [0, 0.5], False),
        (2, [0, 0.5], [1, 1.5], False),
        (3, [0, 0], [2, 2.5], True),
    ]


def test_repeated_frames_stand_still_until_the_picture_changes():
    assert plan([1, 1, 1, 2], time=2) == [
        (1, [0, 0, 0, 0, 0, 0.5], [0, 0.5, 1, 1.5, 2, 2.5], False),
        (2, [0, 0], [3, 3.5], True),
    ]
    assert plan([1, 1], time=2) == [(1, [0, 0, 0, 0], [0, 0.5, 1, 1.5], True)]


def test_repeats_do_not_join_scenes():
    assert plan([1, 1, 1], time=1, scene_ends=(0,)) == [(1, [0], [0], True), (1, [0, 0], [1, 2], True)]


def test_a_rate_has_its_own_grid_from_the_first_frame_on():
    assert plan([1, 2, 3], step=Fraction(1, 24), start=Fraction(2), fps=Fraction(60)) == [
        (1, [0, 0.4, 0.8], [2, 2 + 1 / 60, 2 + 2 / 60], False),
        (2, [float(Fraction(1, 5)), 0.6], [2 + 3 / 60, 2 + 4 / 60], False),
        (3, [0, 0, 0], [2 + 5 / 60, 2 + 6 / 60, 2 + 7 / 60], True),
    ]


def test_a_lower_rate_leaves_frames_out():
    assert [row[1] for row in plan([1, 2, 3, 4, 5], fps=Fraction(1, 2))] == [[0], [], [0], [], [0]]


def test_output_lasts_as_long_as_the_input_within_a_frame():
    for fps in map(Fraction, (7, 24, 25, "30000/1001", 60, "120000/1001")):
        for count in range(1, 12):
            rows = plan(list(range(count)), step=Fraction(1, 24), fps=fps)
            total = sum(len(row[2]) for row in rows)
            assert 0 <= total / fps - Fraction(count, 24) < 1 / fps


@pytest.mark.parametrize("time", [1, 2, 4])
def test_a_pause_is_held_until_one_step_before_the_next_frame(time):
    frame = TimedFrame(np.zeros((2, 2, 3), np.uint8), Fraction(3), Fraction(21), still=Fraction(20))
    moments = divide(frame, time)
    assert [moment.offset for moment in moments] == [Fraction(k, time) for k in range(time)]
    assert [moment.time for moment in moments] == [3] + [23 + Fraction(k, time) for k in range(1, time)]
    assert [moment.duration for moment in moments] == [20 + Fraction(1, time)] + [Fraction(1, time)] * (
        time - 1
    )


def test_a_rate_of_its_own_holds_a_pause_too():
    frame = TimedFrame(np.zeros((2, 2, 3), np.uint8), Fraction(0), Fraction(6), still=Fraction(5))
    offsets = [moment.offset for moment in sample(frame, Fraction(2), Fraction(0))]
    assert offsets == [0] * 11 + [Fraction(1, 2)]
