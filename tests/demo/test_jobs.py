"""What the page does: which weights it takes, what it says before, how it stops, and what it compares."""

from fractions import Fraction

import numpy as np
import pytest

from stvsr_jax.demo import jobs
from stvsr_jax.inference import job, number_format, predictor
from stvsr_jax.video import sequential_reader


def wish(**changes):
    return jobs.Wish(
        **{"weights": jobs.AUTOMATIC, "space": 4.0, "time": 2, "fps": None, "seconds": None} | changes
    )


@pytest.fixture
def networks(shipped, fake_predictors, monkeypatch):
    """Return the networks of a package with the sets 'video' and 'videoinr', of fakes; and what was loaded."""
    shipped("video", "videoinr")
    loaded = []

    def load(source, *, dtype, devices):
        assert dtype is number_format.DTYPES["float32"]  # on a CPU
        loaded.append(source)
        return fake_predictors["videoinr" if source == "videoinr" else "zooming_slowmo"]

    monkeypatch.setattr(predictor.Predictor, "from_pretrained", load)
    return jobs.Networks(), loaded


def test_what_ships_is_offered_and_loaded_when_it_is_needed(networks):
    networks, loaded = networks
    assert networks.choices == [jobs.AUTOMATIC, "video", "videoinr"] and not loaded
    assert networks.name_of("video") == "zooming_slowmo" and not loaded
    assert networks.load("video") is networks.load("video")
    assert loaded == ["video"]


def test_a_checkpoint_is_offered_first_and_loaded_at_once(networks):
    _, loaded = networks
    own = jobs.Networks("runs/own")
    assert own.choices == ["runs/own", jobs.AUTOMATIC, "video", "videoinr"] and loaded == ["runs/own"]
    assert own.choose(wish(weights="runs/own")) == "runs/own" and own.name_of("runs/own") == "zooming_slowmo"


@pytest.mark.parametrize(
    ("asked", "source"),
    [
        ({}, "video"),
        ({"time": 1}, "video"),
        ({"space": 2.5}, "videoinr"),
        ({"time": None, "fps": 60}, "videoinr"),
        ({"weights": "videoinr"}, "videoinr"),
    ],
)
def test_the_rule_of_every_tool_chooses(networks, asked, source):
    assert networks[0].choose(wish(**asked)) == source


def test_without_weights_the_page_does_not_start(shipped):
    shipped()
    with pytest.raises(ValueError, match="no weights in this package; --checkpoint names others"):
        jobs.Networks()


def test_what_it_takes_is_said_before(networks, source, tmp_path):
    networks, loaded = networks
    asked = wish(seconds=0.2)
    planned = jobs.plan(networks, asked, source, tmp_path / "out.mp4")
    text = jobs.describe(networks, asked, planned)
    assert text.startswith("weights: video\ninput: in.mp4, 48x32, 25 frames/s, 5 frames, 0.20 s")
    assert "output: 192x128, 50 frames/s, 10 frames" in text and not loaded
    text = jobs.measure(networks, asked, planned)
    assert "time: " in text and " in all " in text and "memory: about " in text
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"weights": "video", "space": 2}, "zooming_slowmo enlarges 4 times only"),
        ({"space": 0.5}, "space=0.5"),
    ],
)
def test_what_cannot_be_done_is_said_before(networks, source, tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        jobs.plan(networks[0], wish(**asked), source, tmp_path / "out.mp4")


def test_frames_beyond_8k_are_refused(networks, write_video, tmp_path):
    wide = write_video(tmp_path / "wide.mp4", np.zeros((2, 720, 1280, 3), np.uint8))
    with pytest.raises(ValueError, match="frames of 10240x5760 are larger than this page makes"):
        jobs.plan(networks[0], wish(space=8), wide, tmp_path / "out.mp4")


def test_a_video_is_made(networks, source, tmp_path):
    asked, output, done = wish(space=1.5, time=None, fps=60, seconds=0.4), tmp_path / "out.mp4", []
    planned = jobs.plan(networks[0], asked, source, output)
    line = jobs.run(
        networks[0],
        asked,
        planned,
        on_progress=lambda n, m: done.append((n, m)),
        should_stop=lambda: False,
    )
    info = sequential_reader.probe(output)
    assert (info.height, info.width, info.rate, info.frame_count) == (48, 72, 60, 24)
    assert "48x32 at 25 frames per second became 72x48 at 60." in line
    assert done[0] == (0, 24) and done[-1] == (24, 24)
    assert jobs.count_frames(output) == 24


def test_it_stops_after_a_window(networks, source, tmp_path):
    asked, done = wish(space=2), []
    planned = jobs.plan(networks[0], asked, source, tmp_path / "out.mp4")
    with pytest.raises(job.Stopped):
        jobs.run(
            networks[0],
            asked,
            planned,
            on_progress=lambda n, m: done.append(n),
            should_stop=lambda: done[-1] >= 4,
        )
    assert 4 <= done[-1] < 24 and not (tmp_path / "out.mp4").exists()


def test_any_frame_is_compared_with_the_input_at_its_moment(networks, source, tmp_path):
    asked, output = wish(space=2, time=4), tmp_path / "out.mp4"
    planned = jobs.plan(networks[0], asked, source, output)
    jobs.run(networks[0], asked, planned, on_progress=lambda n, m: None, should_stop=lambda: False)
    given = [frame.image for frame in sequential_reader.read_frames(sequential_reader.probe(source))]
    made = [frame.image for frame in sequential_reader.read_frames(sequential_reader.probe(output))]
    for number, index, kind in [
        (0, 0, "0.000 s: input frame 1, enlarged"),
        (6, 1, "0.060 s: interpolated, 0.50 of the way from input frame 2 to the next"),
        (7, 1, "0.070 s: interpolated, 0.75 of the way from input frame 2 to the next"),
        (44, 11, "0.440 s: input frame 12, enlarged"),
        (99, 11, "0.470 s: interpolated, 0.75 of the way from input frame 12 to the next"),
    ]:
        left, right, text = jobs.pair_at(source, output, number)
        assert text == kind
        np.testing.assert_array_equal(right, made[min(number, 47)])
        assert left.shape == right.shape == (64, 96, 3)
        repeated = given[index].repeat(2, 0).repeat(2, 1)
        assert np.abs(left.astype(int) - repeated).mean() < 12  # bicubic against repeats
        others = [np.abs(left.astype(int) - image.repeat(2, 0).repeat(2, 1)).mean() for image in given]
        assert int(np.argmin(others)) == index


def test_rates_are_exact():
    assert wish(time=None, fps=29.97).request(None, None).fps == Fraction(2997, 100)
    assert wish(seconds=0.1).request(None, None).preview == Fraction(1, 10)


def test_examples_are_real_clips():
    for name, path in jobs.find_examples().items():
        assert path.name == name and sequential_reader.probe(path).frame_count > 100
