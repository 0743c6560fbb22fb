"""A clip against itself: what is given, what it is compared with, and the scores."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from stvsr_jax import bicubic
from stvsr_jax.evaluation import held_out
from stvsr_jax.video import sequential_reader


def moving_waves(count, height, width):
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin((x + 2 * n) / 5)[..., None]
        * np.cos((y - n) / (6 + np.arange(3)[:, None, None])).transpose(1, 2, 0)
        for n in range(count)
    ]
    return np.round(127 + 90 * np.stack(waves)).astype(np.uint8)


@pytest.fixture
def clip(tmp_path):
    """Return a lossless clip of 10 frames of 66x50 pixels (width x height), and its frames."""
    frames = moving_waves(10, 50, 66)
    held_out.write_video(tmp_path / "clip.mkv", frames, rate=Fraction(24), is_exact=True)
    return tmp_path / "clip.mkv", frames


@pytest.fixture
def tool(monkeypatch, shipped):
    """Replace the inference tool by one that writes given frames; returns them, to be filled, and its arguments."""
    shipped("zooming_slowmo", "video")
    frames, calls = [], []

    def run(arguments):
        calls.append(arguments)
        held_out.write_video(arguments[1], frames, rate=Fraction(24), is_exact=True)
        return 0

    monkeypatch.setattr(held_out, "run_inference", run)
    return frames, calls


def read(path):
    info = sequential_reader.probe(path)
    return np.stack([frame.image for frame in sequential_reader.read_frames(info)]), info.rate


def luma(frame):
    return 16 + frame.astype(float) @ [65.481, 128.553, 24.966] / 255


def test_the_ground_truth_is_odd_and_divides_by_four(clip):
    path, frames = clip
    target, rate = held_out.read_target(path, start=1, frames=100)
    assert rate == 24
    np.testing.assert_array_equal(target, frames[1:10, :48, :64])
    assert len(held_out.read_target(path, start=0, frames=4)[0]) == 3


def test_every_second_frame_is_given_at_a_quarter_of_the_size(clip, tool, tmp_path, capsys):
    path, frames = clip
    tool[0].extend(frames[:9, :48, :64])
    assert held_out.main([str(path), str(tmp_path / "out")]) == 0
    given, rate = read(tmp_path / "out" / "input.mkv")
    assert rate == 12
    np.testing.assert_array_equal(
        given, bicubic.to_uint8(bicubic.imresize(frames[:9:2, :48, :64], scale=0.25))
    )
    (arguments,) = tool[1]
    assert arguments[2:] == ["--checkpoint", "zooming_slowmo", "--space", "4", "--time", "2"]
    assert "weights: zooming_slowmo" in capsys.readouterr().err


def test_bicubic_is_bicubic_and_the_mean_of_two_frames():
    target = moving_waves(5, 48, 64)
    given = held_out.reduce(target)
    plain = held_out.enlarge(given)
    large = bicubic.imresize(given, scale=4)
    np.testing.assert_array_equal(plain[2], bicubic.to_uint8(large[1]))
    np.testing.assert_array_equal(plain[3], bicubic.to_uint8((large[1] + large[2]) / 2))
    assert plain.shape == target.shape


def test_the_last_line_says_what_was_gained(clip, tool, tmp_path, capsys):
    path, frames = clip
    target = frames[:9, :48, :64]
    noise = np.random.default_rng(0).integers(-3, 4, target.shape)
    made = np.clip(target + noise, 0, 255).astype(np.uint8)
    tool[0].extend([*made, made[-1]])  # the tool makes two frames of the last one, too
    assert held_out.main([str(path), str(tmp_path / "out")]) == 0
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d\d", capsys.readouterr().out.splitlines()[-1])]

    plain = held_out.enlarge(held_out.reduce(target))
    expected = []
    for first in (1, 0):  # left out, given
        ours, theirs = (
            np.mean(
                [
                    peak_signal_noise_ratio(luma(t), luma(f), data_range=255)
                    for f, t in zip(x[first::2], target[first::2], strict=True)
                ]
            )
            for x in (made, plain)
        )
        expected += [ours, theirs, ours - theirs]
    np.testing.assert_allclose(numbers, expected, atol=0.006)
    assert min(expected) > 0


def test_pictures_show_four_panels_of_one_moment(clip, tool, tmp_path):
    path, frames = clip
    target = frames[:9, :48, :64]
    tool[0].extend(target)
    assert held_out.main([str(path), str(tmp_path / "out")]) == 0
    picture = np.asarray(Image.open(tmp_path / "out" / "compare.png"))
    assert picture.shape == (2 * 48 * 5, 4 * 64 * 5, 3)
    _, result, original = np.split(picture, 4, axis=1)[1:]
    below = slice(48 * 5 - 40, None)  # the labels are above
    np.testing.assert_array_equal(result[below][:40], original[below][:40])
    shown = original[48 * 5 + 60 :: 5, ::5]
    assert any((frame[12:] == shown).all() for frame in target[1::2])
    video, rate = read(tmp_path / "out" / "compare.mp4")
    assert (len(video), rate, video.shape[1:3]) == (9, 24, (240, 1280))
    held = [frame[120:, :300] for frame in itertools.islice(video, 2)]
    assert np.abs(np.subtract(*held, dtype=int)).mean() < 1  # the input is held for two frames


def test_what_cannot_be_done_is_one_line(clip, tool, tmp_path, capsys):
    path, frames = clip
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "result.mp4").touch()
    out = tmp_path / "out"
    for arguments, message in [
        ((path, out, "--frames", 2), "frames=2 must be at least 3"),
        ((path, out, "--start", 8), "at least 3 are needed"),
        ((tmp_path / "none.mp4", out), "none.mp4"),
        ((path, tmp_path / "taken"), "result.mp4 exists; --overwrite"),
        ((path, out, "--model", "videoinr"), "--model videoinr is not in this package"),
    ]:
        assert held_out.main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not out.exists()
