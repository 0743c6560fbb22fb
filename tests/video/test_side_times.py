"""Times of sound and subtitles."""

from fractions import Fraction

import pytest

from stvsr_jax.video.side_times import Heard, SoundTimes, SubtitleTimes

STEP = Fraction(1, 50)


def place(times, shifts=(Fraction(0),), duration=STEP):
    """Returns where packets go, in steps; times are given in steps, None where there is none."""
    sound = SoundTimes(shifts)
    heard = [Heard(None if time is None else time * STEP, duration) for time in times]
    return [
        float(sound.place(packet, following) / STEP)
        for packet, following in zip(heard, [*heard[1:], None], strict=True)
    ]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([-1, 0, 1], [-1, 0, 1]),
        ([0, 1.2, 1.9, 3], [0, 1.2, 1.9, 3]),  # jitter stays
        ([0, 1, 50, 51], [0, 1, 50, 51]),  # a gap stays
        ([0, 1, 1, 3], [0, 1, 2, 3]),  # two equal times
        ([0, 1, None, 3], [0, 1, 2, 3]),
        ([0, 1, 9999999, 3, 4], [0, 1, 2, 3, 4]),  # one wild time, ahead
        ([500, 501, 3, 503], [500, 501, 502, 503]),  # one wild time, behind
        ([500, 501, 0, 1, 2], [500, 501, 502, 503, 504]),  # the clock starts again
        ([500, 501, 0, 1, 0, 1], [500, 501, 502, 503, 502 + 2, 503 + 2]),  # again and again
        ([0, 1, 2, 1000], [0, 1, 2, 1000]),  # nothing follows that could say
    ],
)
def test_sound_rises_and_goes_on(times, expected):
    assert place(times) == expected


def test_sound_without_durations_rises():
    placed = place([0, 1, 1, 2, 200, 201, 0, 1], duration=Fraction(0))
    assert placed == sorted(placed) and placed[4] == 200


def test_a_known_change_of_the_clock_is_taken_as_it_is():
    # The picture ends half a step after the sound, and so begins the second part.
    shifts = (Fraction(0), Fraction(1003, 2) * STEP, 1002 * STEP)
    assert place([500, 501, 0, 1], shifts) == [500, 501, 501.5, 502.5]
    assert place([500, 501, 0, 1, 499, 500, 0, 1], shifts)[-2:] == [1002, 1003]
    # Silence at the end of a part, more of it than there is sound in the part.
    assert place([500, 501, 480, 481], (Fraction(0), 200 * STEP)) == [500, 501, 680, 681]
    # An hour that the picture leaves out is left out here.
    assert place([0, 1, 180002, 180003], (Fraction(0), -180000 * STEP)) == [0, 1, 2, 3]


def test_subtitles_pause_and_follow_the_clock():
    def place(times, shifts):
        words = SubtitleTimes([Fraction(shift) for shift in shifts])
        return [words.place(Heard(None if t is None else Fraction(t), Fraction(1))) for t in times]

    assert place([0, 100, 100, 4000, None], [0]) == [0, 100, 100, 4000, 4000]
    assert place([10, 90, 20, 30], [0, 100]) == [10, 90, 120, 130]
    assert place([10, 90, 20, 95], [0]) == [10, 90, 90, 95]
