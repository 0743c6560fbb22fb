"""Which frames each protocol gives and scores, written out."""

from fractions import Fraction

import pytest

from stvsr_jax.evaluation import protocols
from stvsr_jax.evaluation.protocols import PROTOCOLS, Window

VID4 = {"calendar": 41, "city": 34, "foliage": 49, "walk": 47}


def plan(name, length):
    """Return [(inputs, scored)] as lists."""
    return [(list(w.inputs), list(w.scored)) for w in PROTOCOLS[name].plan(length)]


def scored(name, length):
    return [index for window in PROTOCOLS[name].plan(length) for index in window.scored]


def test_zsm_keeps_the_first_prediction_and_drops_the_tail():
    first, second = ([0, 2, 4, 6], [0, 1, 2, 3, 4, 5, 6]), ([6, 8, 10, 12], [7, 8, 9, 10, 11, 12])
    assert plan("zsm", 6) == []
    assert plan("zsm", 7) == [first]
    assert plan("zsm", 12) == [first]
    assert plan("zsm", 13) == plan("zsm", 14) == plan("zsm", 18) == [first, second]
    assert plan("zsm", 19) == [first, second, ([12, 14, 16, 18], [13, 14, 15, 16, 17, 18])]


def test_full_adds_a_window_aligned_to_the_end():
    first, second = ([0, 2, 4, 6], [0, 1, 2, 3, 4, 5, 6]), ([6, 8, 10, 12], [7, 8, 9, 10, 11, 12])
    assert plan("full", 6) == []
    assert plan("full", 7) == [first]
    assert plan("full", 8) == [first, ([1, 3, 5, 7], [7])]
    assert plan("full", 10) == [first, ([3, 5, 7, 9], [7, 8, 9])]
    assert plan("full", 13) == [first, second]
    assert plan("full", 18) == [first, second, ([11, 13, 15, 17], [13, 14, 15, 16, 17])]


def test_vid4_counts():
    assert {name: len(scored("zsm", n)) for name, n in VID4.items()} == {
        "calendar": 37,
        "city": 31,
        "foliage": 49,
        "walk": 43,
    }
    assert all(scored("full", n) == list(range(n)) for n in VID4.values())


def test_average_drops_the_second_given_frame():
    assert plan("average", 8) == []
    assert plan("average", 9) == plan("average", 16) == [([0, 8], [0, 1, 2, 3, 4, 5, 6, 7])]
    assert plan("average", 17) == [
        ([0, 8], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([8, 16], [8, 9, 10, 11, 12, 13, 14, 15]),
    ]


def test_center_is_the_first_given_frame_and_the_one_in_the_middle():
    assert plan("center", 8) == []
    assert plan("center", 9) == plan("center", 16) == [([0, 8], [0, 4])]
    assert plan("center", 27) == [([0, 8], [0, 4]), ([8, 16], [8, 12]), ([16, 24], [16, 20])]
    assert PROTOCOLS["center"].plan(9)[0].times == (0, Fraction(1, 2))


def test_middle_is_the_frame_in_the_middle_alone():
    assert plan("middle", 8) == []
    assert plan("middle", 9) == plan("middle", 16) == [([0, 8], [4])]
    assert plan("middle", 27) == [([0, 8], [4]), ([8, 16], [12]), ([16, 24], [20])]
    assert PROTOCOLS["middle"].plan(9)[0].times == (Fraction(1, 2),)


@pytest.mark.parametrize("name", ["average", "center"])
def test_protocols_of_v3_differ_in_rounding_alone(name):
    ours, theirs = PROTOCOLS[name], PROTOCOLS[f"v3_{name}"]
    assert [ours.plan(n) for n in range(40)] == [theirs.plan(n) for n in range(40)]
    assert (ours.rounded, theirs.rounded) == (False, True)
    assert not ours.has_8_bit_input and not theirs.has_8_bit_input
    assert (ours.average, ours.space, ours.multiple) == (theirs.average, theirs.space, theirs.multiple)


def test_grid_scores_from_one_given_frame_to_the_next():
    assert plan("grid_t6_s4", 6) == []
    assert plan("grid_t6_s12", 13) == [([0, 6], [0, 1, 2, 3, 4, 5]), ([6, 12], [6, 7, 8, 9, 10, 11])]
    assert plan("grid_t12_s6", 24) == [([0, 12], list(range(12)))]
    assert plan("grid_t16_s4", 17) == [([0, 16], list(range(16)))]
    assert PROTOCOLS["grid_t12_s4"].plan(13)[0].times == tuple(Fraction(k, 12) for k in range(12))


def test_grid_is_every_time_by_every_space():
    grid = {name: protocol for name, protocol in PROTOCOLS.items() if name.startswith("grid")}
    assert len(grid) == 12
    assert {(len(p.plan(17)[0].scored), p.space) for p in grid.values()} == {
        (time, space) for time in (6, 8, 12, 16) for space in (4, 6, 12)
    }
    assert all(p.multiple % p.space == 0 and p.multiple == 12 and not p.rounded for p in grid.values())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_shortest_clip_gives_one_window_and_a_shorter_one_none(name):
    protocol = PROTOCOLS[name]
    assert len(protocol.plan(protocol.shortest)) == 1
    assert protocol.plan(protocol.shortest - 1) == ()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_frame_is_scored_twice_and_all_lie_in_their_window(name):
    for length in range(60):
        frames = scored(name, length)
        assert len(set(frames)) == len(frames)
        for window in PROTOCOLS[name].plan(length):
            assert 0 <= window.inputs[0] <= window.scored[0]
            assert window.scored[-1] <= window.inputs[-1] < length


def test_times_count_in_given_frames():
    window = Window((3, 5, 7, 9), (7, 8, 9))
    assert window.times == (2, Fraction(5, 2), 3)


def test_window_is_cut_for_networks_of_two_frames():
    first, last = PROTOCOLS["full"].plan(10)
    assert protocols.split_window(first, 2) == (
        Window((0, 2), (0, 1, 2)),
        Window((2, 4), (3, 4)),
        Window((4, 6), (5, 6)),
    )
    assert protocols.split_window(last, 2) == (Window((5, 7), (7,)), Window((7, 9), (8, 9)))
    assert protocols.split_window(first, 4) == protocols.split_window(first, 7) == (first,)
    with pytest.raises(ValueError, match="4 given frames cannot be cut into windows of 3"):
        protocols.split_window(first, 3)


def test_weights_of_frames():
    assert protocols.frame_weights("clip", [37, 31]) == [1 / 74, 1 / 62]
    assert protocols.frame_weights("window", [8, 16]) == [1 / 24, 1 / 24]


def test_unknown_protocol_is_named():
    with pytest.raises(
        ValueError, match="protocol 'vid4' is not one of zsm, full, center, middle, average, v3_center"
    ):
        protocols.find_protocol("vid4")
