"""Window plans written out by hand."""

from fractions import Fraction

import pytest

from stvsr_jax.inference.moments import Moment
from stvsr_jax.inference.streaming import plan_windows


def timed(length, time, scene_ends=()):
    """Frames 0, 1, 2 ... with their moments, those of scene ends held."""
    for i in range(length):
        is_last = i == length - 1 or i in scene_ends
        offsets = [Fraction(0 if is_last else k, time) for k in range(time)]
        times = [i + Fraction(k, time) for k in range(time)]
        yield i, [Moment(o, t, Fraction(1, time)) for o, t in zip(offsets, times, strict=True)], is_last


def plan(length, *, size, time, keep_earlier=True, scene_ends=()):
    """[(frames, kept outputs in 1/time frames after the first, how many more times the last is shown)]."""
    windows = plan_windows(timed(length, time, scene_ends), size=size, keep_earlier=keep_earlier)
    return [(w.frames, [int(t * time) for t in w.times], len(w.outputs) - len(w.times)) for w in windows]


FOURS_TWICE = {
    1: [((0, 0, 0, 0), [0], 1)],
    2: [((0, 1, 1, 1), [0, 1, 2], 1)],
    3: [((0, 1, 2, 2), [0, 1, 2, 3, 4], 1)],
    4: [((0, 1, 2, 3), [0, 1, 2, 3, 4, 5, 6], 1)],
    5: [((0, 1, 2, 3), [0, 1, 2, 3, 4, 5, 6], 0), ((1, 2, 3, 4), [5, 6], 1)],
    6: [((0, 1, 2, 3), [0, 1, 2, 3, 4, 5, 6], 0), ((2, 3, 4, 5), [3, 4, 5, 6], 1)],
    7: [((0, 1, 2, 3), [0, 1, 2, 3, 4, 5, 6], 0), ((3, 4, 5, 6), [1, 2, 3, 4, 5, 6], 1)],
    8: [
        ((0, 1, 2, 3), [0, 1, 2, 3, 4, 5, 6], 0),
        ((3, 4, 5, 6), [1, 2, 3, 4, 5, 6], 0),
        ((4, 5, 6, 7), [5, 6], 1),
    ],
    9: [
        ((0, 1, 2, 3), [0, 1, 2, 3, 4, 5, 6], 0),
        ((3, 4, 5, 6), [1, 2, 3, 4, 5, 6], 0),
        ((5, 6, 7, 8), [3, 4, 5, 6], 1),
    ],
}
FOURS_ONCE = {
    1: [((0, 0, 0, 0), [0], 0)],
    3: [((0, 1, 2, 2), [0, 1, 2], 0)],
    4: [((0, 1, 2, 3), [0, 1, 2, 3], 0)],
    5: [((0, 1, 2, 3), [0, 1, 2, 3], 0), ((1, 2, 3, 4), [3], 0)],
    9: [((0, 1, 2, 3), [0, 1, 2, 3], 0), ((3, 4, 5, 6), [1, 2, 3], 0), ((5, 6, 7, 8), [2, 3], 0)],
}
PAIRS_THREE_TIMES = {
    1: [((0, 0), [0], 2)],
    2: [((0, 1), [0, 1, 2, 3], 2)],
    3: [((0, 1), [0, 1, 2], 0), ((1, 2), [0, 1, 2, 3], 2)],
    4: [((0, 1), [0, 1, 2], 0), ((1, 2), [0, 1, 2], 0), ((2, 3), [0, 1, 2, 3], 2)],
}


@pytest.mark.parametrize("length", FOURS_TWICE)
def test_fours_at_twice_the_rate(length):
    assert plan(length, size=4, time=2) == FOURS_TWICE[length]


@pytest.mark.parametrize("length", FOURS_ONCE)
def test_fours_at_the_same_rate(length):
    assert plan(length, size=4, time=1) == FOURS_ONCE[length]


@pytest.mark.parametrize("length", PAIRS_THREE_TIMES)
def test_pairs_at_three_times_the_rate(length):
    assert plan(length, size=2, time=3, keep_earlier=False) == PAIRS_THREE_TIMES[length]


@pytest.mark.parametrize("keep_earlier", [True, False])
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("time", [1, 2, 5])
def test_every_instant_comes_once_and_in_order(size, time, keep_earlier):
    for length in range(1, 15):
        instants, times = [], []
        for window in plan_windows(timed(length, time), size=size, keep_earlier=keep_earlier):
            assert window.outputs[-1][0] <= size - 1
            instants += [window.frames[0] + instant for instant, _ in window.outputs]
            times += [moment.time for _, moment in window.outputs]
        expected = [Fraction(n, time) for n in range((length - 1) * time + 1)]
        assert instants == expected + [Fraction(length - 1)] * (time - 1)
        assert times == [Fraction(n, time) for n in range(length * time)]


def test_windows_without_outputs_are_left_out():
    def every_fifth():
        for i in range(11):
            yield i, [Moment(Fraction(0), Fraction(i), Fraction(5))] if i % 5 == 0 else [], i == 10

    windows = list(plan_windows(every_fifth(), size=2, keep_earlier=False))
    assert [(w.frames, w.times) for w in windows] == [((0, 1), (0,)), ((5, 6), (0,)), ((9, 10), (1,))]


def test_no_window_spans_a_scene_end():
    assert plan(7, size=4, time=2, scene_ends=(4,)) == [
        ((0, 1, 2, 3), [0, 1, 2, 3, 4, 5, 6], 0),
        ((1, 2, 3, 4), [5, 6], 1),
        ((5, 6, 6, 6), [0, 1, 2], 1),
    ]
    assert plan(3, size=2, time=2, keep_earlier=False, scene_ends=(0,)) == [
        ((0, 0), [0], 1),
        ((1, 2), [0, 1, 2], 1),
    ]


def test_windows_come_before_the_stream_ends():
    def frames():
        for i in range(4):
            yield i, [Moment(Fraction(0), Fraction(i), Fraction(1))], False
        raise AssertionError("asked for more than the first window needs")

    assert next(plan_windows(frames(), size=4)).frames == (0, 1, 2, 3)


def test_sizes_below_the_least_are_refused():
    with pytest.raises(ValueError, match="size=1"):
        next(plan_windows(timed(1, 1), size=1))
