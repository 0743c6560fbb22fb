"""Presentation timestamps as files have them."""

from fractions import Fraction

import pytest

from stvsr_jax.video import timing

MS = Fraction(1, 1000)
NTSC = Fraction(30000, 1001)


def test_pts_rounded_to_milliseconds_are_constant_rate():
    pts = [round(i * 1000 / NTSC) for i in range(300)]
    assert timing.find_constant_rate(pts, MS, [None, NTSC]) == NTSC


def test_usual_rate_is_taken_for_a_close_guess():
    pts = [round(i * 1000 / NTSC) for i in range(8)]
    assert timing.find_constant_rate(pts, MS, [Fraction(19001, 634)]) == NTSC


def test_half_rate_guess_is_not_taken_for_the_rate():
    pts = list(range(0, 4000, 40))
    assert timing.find_constant_rate(pts, MS, [Fraction(50)]) == 25


def test_few_missing_frames_keep_the_rate():
    pts = [40 * i for i in range(100) if i not in (50, 51)]
    assert timing.find_constant_rate(pts, MS, [Fraction(25)]) == 25


def test_varying_steps_have_no_constant_rate():
    pts = [0, 40, 80, 180, 220, 240, 400, 410, 500, 600]
    assert timing.find_constant_rate(pts, MS, [Fraction(25), Fraction(1000, 60)]) is None


def test_early_last_pts_does_not_matter():
    assert timing.find_constant_rate([120, 160, 200, 240, 260], MS, [Fraction(50)]) == 25


def test_shuffled_pts_come_back_in_order():
    frames = [(0, "a"), (101, "b"), (67, "c"), (134, "d"), (34, "e")]
    assert list(timing.restore_pts(frames)) == [(0, "a"), (34, "b"), (67, "c"), (101, "d"), (134, "e")]
    assert list(timing.restore_pts([(None, "a"), (None, "b")])) == [(None, "a"), (None, "b")]


def test_clock_snaps_to_whole_frames_and_keeps_gaps():
    clock = timing.Clock(MS, 1 / NTSC, True, Fraction(0))
    times = [clock.time(pts) for pts in (0, 33, 67, 167)]
    assert times == [0, 1 / NTSC, 2 / NTSC, 5 / NTSC]


def test_clock_of_a_varying_rate_keeps_pts_and_always_rises():
    clock = timing.Clock(MS, Fraction(1, 25), False, Fraction(1))
    assert [clock.time(s) for s in (1000, 1045, 1045, None)] == [
        0,
        Fraction(45, 1000),
        Fraction(46, 1000),
        Fraction(86, 1000),
    ]


@pytest.mark.parametrize("is_constant", [True, False])
def test_clock_without_pts_counts_frames(is_constant):
    clock = timing.Clock(MS, Fraction(1, 24), is_constant, Fraction(0))
    assert [clock.time(None) for _ in range(3)] == [0, Fraction(1, 24), Fraction(2, 24)]


def test_usual_step_is_the_median():
    assert timing.usual_step([0, 40, 80, 130, 21130], MS) == Fraction(45, 1000)
    assert timing.usual_step([7], MS) == timing.usual_step([], MS) == MS
    assert timing.mean_rate([0, 40, 80, 130, 21130], MS) == Fraction(4000, 21130)
    assert timing.mean_rate([7], MS) is None


def test_a_picture_stands_still_until_one_step_before_the_end_of_a_pause():
    step = Fraction(1, 25)
    assert timing.still_time(Fraction(21), step) == 21 - step
    assert [timing.still_time(n * step, step) for n in (1, 2, 5, 12)] == [0, 0, 0, 0]
    assert timing.still_time(13 * step, step) == 12 * step
    # At one frame per second a second is no pause.
    assert (
        timing.still_time(Fraction(5), Fraction(1)) == 0 and timing.still_time(Fraction(6), Fraction(1)) == 5
    )


@pytest.mark.parametrize(
    ("start", "first", "origin"),
    [
        (Fraction(1_400_000, 10**6), Fraction(126_000, 90_000), Fraction(7, 5)),  # rounded to microseconds
        (Fraction(1, 3), Fraction(2), Fraction(1, 3)),  # sound begins before the picture
        (Fraction(-1, 50), Fraction(0), 0),  # sound that begins early to be ready
        (Fraction(-1), Fraction(-1, 2), -1),  # the counter begins again
    ],
)
def test_origin_is_where_the_clock_is_zero(start, first, origin):
    assert timing.find_origin(start, first) == origin
