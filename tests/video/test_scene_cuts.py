"""Cuts are found where a scene changes and nowhere else."""

import numpy as np
import pytest

from stvsr_jax.video.scene_cuts import find_cuts, is_unlike, scenes_between


def _scene(seed, count, *, speed=0.3):
    """A smooth texture sliding `speed` pixels of the thumbnail per frame, uint8 [count, 18, 32, 3]."""
    rng = np.random.default_rng(seed)
    waves = [(rng.uniform(0.1, 0.5, 2), rng.uniform(0, 6, 3), rng.uniform(10, 40, 3)) for _ in range(4)]
    base = rng.uniform(70, 190, 3)
    y, x = np.mgrid[:18, :32]
    frames = []
    for n in range(count):
        frame = np.zeros((18, 32, 3)) + base
        for (fy, fx), phase, size in waves:
            frame += size * np.sin(fy * y + fx * (x + speed * n) + phase.reshape(3, 1, 1)).transpose(1, 2, 0)
        frames.append(frame)
    return np.clip(frames, 0, 255).astype(np.uint8)


def test_finds_each_cut():
    video = np.concatenate([_scene(seed, 20) for seed in range(4)])
    assert find_cuts(video) == [20, 40, 60]


def test_finds_cuts_in_video_with_repeated_frames():
    video = np.concatenate([_scene(1, 20), _scene(2, 20)]).repeat(2, axis=0)
    assert find_cuts(video) == [40]


def test_finds_a_cut_with_a_blended_frame_on_both_sides_of_it():
    first, second = _scene(1, 20), _scene(2, 20)
    blend = ((first[-1].astype(int) + second[0]) // 2).astype(np.uint8)
    assert set(find_cuts(np.concatenate([first, blend[None], second]))) == {20, 21}


def test_fast_motion_is_no_cut():
    for speed in (2.0, 4.0, 7.0):
        assert find_cuts(_scene(3, 40, speed=speed)) == []


def test_sudden_start_of_fast_motion_is_no_cut():
    slow, fast = _scene(3, 20, speed=0.0), _scene(3, 20, speed=5.0)
    assert find_cuts(np.concatenate([slow, fast])) == []


@pytest.mark.parametrize("length", [1, 2])
def test_flash_is_no_cut(length):
    video = _scene(4, 40)
    video[20 : 20 + length] = 255
    assert find_cuts(video) == []
    assert find_cuts(video, is_flash_cut=True) == [20, 20 + length]


@pytest.mark.parametrize(
    "lengths", [(20, 1, 20), (20, 1, 1, 1, 20), (20, 2, 1, 2, 20), (20, 2, 2, 2, 2, 2, 20)]
)
def test_scenes_of_one_or_two_frames_have_cuts_on_both_sides(lengths):
    video = np.concatenate([_scene(seed, length) for seed, length in enumerate(lengths)])
    assert find_cuts(video) == list(np.cumsum(lengths)[:-1])


def test_a_picture_is_like_itself_moved_darkened_or_noisy_and_unlike_others():
    picture = _scene(1, 1)[0]
    noise = np.random.default_rng(0).normal(0, 10, picture.shape)
    for like in (
        np.roll(picture, (2, -5), (0, 1)),
        picture // 4,
        np.clip(picture + noise, 0, 255).astype(np.uint8),
    ):
        assert not is_unlike(picture, like)
    assert is_unlike(picture, 255 - picture) and is_unlike(picture, _scene(2, 1)[0])
    flat = np.full_like(picture, 90)
    assert not is_unlike(picture, flat) and not is_unlike(flat, flat + 90)


def test_fade_through_black_is_no_cut():
    first, second = _scene(1, 30).astype(float), _scene(2, 30).astype(float)
    ramp = np.linspace(1, 0, 15)[:, None, None, None]
    first[15:] *= ramp
    second[:15] *= ramp[::-1]
    assert find_cuts(np.concatenate([first, second]).astype(np.uint8)) == []


def test_noise_in_a_still_scene_is_no_cut():
    noise = np.random.default_rng(0).normal(0, 6, (40, 18, 32, 3))
    assert find_cuts(np.clip(_scene(5, 1) + noise, 0, 255).astype(np.uint8)) == []


def test_threshold_decides():
    video = np.concatenate([_scene(1, 10), _scene(1, 10) // 2 + 40])
    assert find_cuts(video, threshold=255.0) == []
    assert find_cuts(np.concatenate([_scene(1, 10), _scene(2, 10)]), threshold=1.0) == [10]


def test_short_videos_have_no_cuts():
    assert find_cuts(_scene(1, 1)) == []
    assert find_cuts(_scene(1, 0).reshape(0, 18, 32, 3)) == []


def test_scenes_between_cuts_cover_every_frame_once():
    assert scenes_between([3, 7], 10) == ((0, 3), (3, 7), (7, 10))
    assert scenes_between([], 5) == ((0, 5),)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="threshold=0"):
        find_cuts(_scene(1, 3), threshold=0)
    with pytest.raises(ValueError, match=r"\(18, 32, 3\)"):
        find_cuts(_scene(1, 3)[0])
