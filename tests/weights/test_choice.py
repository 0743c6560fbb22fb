"""Which weights a request takes."""

from fractions import Fraction

import pytest

from stvsr_jax.weights import choice

ALL = ("video", "videoinr", "zooming_slowmo")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "video"),
        ({"space": 4.0}, "video"),
        ({"time": 1}, "video"),
        ({"space": 4, "time": 2}, "video"),
        ({"is_video": False}, "zooming_slowmo"),
        ({"is_video": False, "time": 1}, "zooming_slowmo"),
        ({"space": 3}, "videoinr"),
        ({"time": 3}, "videoinr"),
        ({"time": 4, "is_video": False}, "videoinr"),
        ({"size": (720, 1280)}, "videoinr"),
        ({"fps": Fraction(60)}, "videoinr"),
        ({"space": 1, "time": 2}, "videoinr"),
        ({"model": "videoinr"}, "videoinr"),
        ({"model": "zooming_slowmo", "space": 3}, "zooming_slowmo"),
        ({"checkpoint": "hf://user/repo"}, "hf://user/repo"),
    ],
)
def test_what_is_asked_for_decides(shipped, asked, expected):
    shipped(*ALL)
    chosen = choice.choose(**asked)
    assert chosen.source == expected
    named = {"model", "checkpoint"} & set(asked)
    assert (chosen.remark is None) if named else (f"weights: {expected}, from this package" in chosen.remark)


def test_clean_weights_stand_in_for_those_of_videos(shipped):
    shipped("zooming_slowmo", "videoinr")
    assert choice.choose().source == "zooming_slowmo"


def test_weights_for_compressed_videos_do_not_stand_in_for_clean_ones(shipped):
    shipped("video", "videoinr")
    with pytest.raises(ValueError, match="takes the weights zooming_slowmo, which are not in this package"):
        choice.choose(is_video=False)


def test_what_is_not_shipped_is_answered_with_the_ways_out(shipped):
    shipped("video")
    with pytest.raises(
        ValueError, match=r"weights videoinr, .*which has video \(--model\); --checkpoint takes"
    ):
        choice.choose(space=2)
    with pytest.raises(ValueError, match="--model videoinr is not in this package, which has video"):
        choice.choose(model="videoinr")


def test_a_package_without_weights_says_so(shipped):
    shipped()
    with pytest.raises(ValueError, match="weights zooming_slowmo, .*which has none; --checkpoint takes"):
        choice.choose()


def test_two_names_exclude_each_other(shipped, tmp_path):
    shipped(*ALL)
    with pytest.raises(ValueError, match="--checkpoint and --model exclude each other"):
        choice.choose(model="video", checkpoint=str(tmp_path))
    with pytest.raises(ValueError, match="none: there is no such file or folder"):
        choice.choose(checkpoint=str(tmp_path / "none"))
