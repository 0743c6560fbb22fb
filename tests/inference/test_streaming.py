"""Window plans written out by hand."""

from fractions import Fraction

import pytest

from stvsr_jax.inference.streaming import plan_windows


def plan(length, *, size, time, keep_earlier=True, scene_ends=()):
    """[(frames, kept outputs in 1/time frames after the first, hold)]."""
    marked = [(i, i == length - 1 or i in scene_ends) for i in range(length)]
    windows = list(plan_windows(marked, size=size, time=time, keep_earlier=keep_earlier))
    assert [w.start for w in windows] == [w.frames[0] for w in windows]
    return [(w.frames, [int(t * time) for t in w.times], w.hold) for w in windows]


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
        instants = []
        marked = [(i, i == length - 1) for i in range(length)]
        for window in plan_windows(marked, size=size, time=time, keep_earlier=keep_earlier):
            instants += [window.start + t for t in window.times]
            instants += [instants[-1]] * window.hold
        expected = [Fraction(n, time) for n in range((length - 1) * time + 1)]
        assert instants == expected + [Fraction(length - 1)] * (time - 1)


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
            yield i, False
        raise AssertionError("asked for more than the first window needs")

    assert next(plan_windows(frames(), size=4, time=2)).frames == (0, 1, 2, 3)


def test_sizes_below_the_least_are_refused():
    with pytest.raises(ValueError, match="size=1"):
        next(plan_windows([(0, True)], size=1, time=1))
    with pytest.raises(ValueError, match="time=0"):
        next(plan_windows([(0, True)], size=2, time=0))
