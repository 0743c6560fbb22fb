"""Samples hold the frames, instants and reductions that the recipes ask for."""

import dataclasses
import math

import numpy as np
import pytest

from stvsr_jax import bicubic
from stvsr_jax.data import degradations
from stvsr_jax.data.degradations import DEGRADATIONS
from stvsr_jax.data.samples import centre_sample, cut_sample, draw_sample, draw_stride
from stvsr_jax.data.windows import videoinr, zooming_slowmo


def _unit(frames, reduce):
    return bicubic.to_uint8(bicubic.imresize(frames, scale=1 / reduce)).astype(np.float32) / np.float32(255)


def _draw(clip, start, spec, seed=0, batch=0):
    rng, batch_rng = np.random.default_rng((seed, 0)), np.random.default_rng((batch, 1))
    return draw_sample(clip, start, spec, rng=rng, batch_rng=batch_rng)


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (17, 21)])
def test_zooming_slowmo_equals_crops_of_reduced_frames(array_clip, corner):
    # 101 = 4 * 25 + 1: the reduced frame has a 26th row, which has no full target and is never cropped.
    clip = array_clip(height=101, width=117)
    ((_, spec),) = zooming_slowmo(lr_crop=8)
    sample = cut_sample(clip, 5, spec, scale=4, corner=corner, times=np.arange(7), stride=1)
    y, x = corner
    expected = _unit(clip.frames[[5, 7, 9, 11]], 4)[:, y : y + 8, x : x + 8]
    np.testing.assert_array_equal(sample["frames"], expected)
    target = clip.frames[5:12, 4 * y : 4 * y + 32, 4 * x : 4 * x + 32]
    np.testing.assert_allclose(sample["target"], target / 255.0, rtol=1e-6)
    np.testing.assert_allclose(sample["times"], np.arange(7) / 6, rtol=1e-6)


def test_videoinr_reduces_the_target_too(array_clip):
    clip = array_clip(height=96, width=130)
    spec = videoinr(lr_crop=8, hr_reduce=2)[0][1]
    sample = cut_sample(clip, 2, spec, scale=4, corner=(4, 8), times=np.array([3]), stride=1)
    np.testing.assert_array_equal(sample["frames"], _unit(clip.frames[[2, 10]], 8)[:, 4:12, 8:16])
    np.testing.assert_array_equal(sample["target"], _unit(clip.frames[[5]], 2)[:, 16:48, 32:64])
    np.testing.assert_array_equal(sample["times"], np.float32([3 / 8]))


@pytest.mark.parametrize("stage2_step", [None, 0])
def test_videoinr_keeps_reduced_frames_in_float_on_request(array_clip, stage2_step):
    clip = array_clip(height=80, width=90)
    drawn = {}
    for quantize in (True, False):
        spec = videoinr(lr_crop=8, stage2_step=stage2_step, quantize=quantize, hr_reduce=2)[0][1]
        drawn[quantize] = _draw(clip, 1, spec)
    for key in ("frames", "target"):
        exact, rounded = drawn[False][key] * 255, drawn[True][key] * 255
        assert np.abs(rounded - np.round(rounded)).max() < 1e-4
        # As far as to the nearest level, and on noise rarely on one.
        assert 0.2 < np.abs(exact - rounded).mean() < 0.3 and np.abs(exact - rounded).max() < 0.5 + 1e-3


def test_time_stride_skips_frames(array_clip):
    clip = array_clip(count=30, height=40, width=40)
    spec = zooming_slowmo(lr_crop=8, time_stride=3)[0][1]
    sample = cut_sample(clip, 1, spec, scale=4, corner=(0, 0), times=np.arange(7), stride=3)
    np.testing.assert_allclose(sample["target"], clip.frames[1:20:3, :32, :32] / 255.0, rtol=1e-6)


@pytest.mark.parametrize("scale", [2.0, 2.57, 3.0, 4.0])
def test_second_stage_reduces_a_crop(array_clip, scale):
    clip = array_clip(height=80, width=90)
    spec = videoinr(lr_crop=8, stage2_step=0, hr_reduce=2)[0][1]
    size = math.floor(16 * scale)
    sample = cut_sample(clip, 1, spec, scale=scale, corner=(5, 9), times=np.array([0, 4, 8]), stride=1)
    crop = clip.frames[:, 5 : 5 + size, 9 : 9 + size]
    assert sample["frames"].shape == (2, 8, 8, 3)
    assert sample["target"].shape == (3, math.ceil(size / 2), math.ceil(size / 2), 3)
    np.testing.assert_array_equal(sample["frames"], _unit(crop[[1, 9]], 2 * scale))
    np.testing.assert_array_equal(sample["target"], _unit(crop[[1, 5, 9]], 2))
    np.testing.assert_array_equal(sample["times"], np.float32([0, 0.5, 1]))


def test_drawn_samples_are_functions_of_the_generators(array_clip):
    clip = array_clip(height=70, width=80)
    for recipe in (
        zooming_slowmo(lr_crop=8),
        videoinr(lr_crop=8, hr_reduce=2),
        videoinr(lr_crop=8, stage2_step=0, hr_reduce=2),
    ):
        spec = recipe[0][1]
        first, second, other = _draw(clip, 0, spec), _draw(clip, 0, spec), _draw(clip, 0, spec, seed=1)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])
            assert first[key].dtype == np.float32 and first[key].flags.c_contiguous
        assert not np.array_equal(first["frames"], other["frames"])


def test_batch_shares_scale_and_augmentation(array_clip):
    clip = array_clip(height=70, width=80)
    spec = videoinr(lr_crop=8, stage2_step=0, hr_reduce=2)[0][1]
    for batch in range(5):
        sizes = {_draw(clip, 0, spec, seed=s, batch=batch)["target"].shape for s in range(5)}
        assert len(sizes) == 1
    every = {_draw(clip, 0, spec, batch=b)["target"].shape[1] for b in range(100)}
    assert every == {math.ceil(math.floor(16 * d) / 2) for d in np.linspace(2, 4, 8)}


def test_every_window_frame_becomes_a_target(array_clip):
    clip = array_clip(height=70, width=80)
    spec = dataclasses.replace(videoinr(lr_crop=8, hr_reduce=2)[0][1], augment=False)
    times = {float(_draw(clip, 0, spec, seed=s)["times"][0]) for s in range(150)}
    assert times == {i / 8 for i in range(9)}


def test_playing_backwards_keeps_instants_true(array_clip):
    # Frame n is flat with brightness n: the target of instant t must lie t of the way between the inputs.
    clip = array_clip(height=40, width=40)
    clip = dataclasses.replace(
        clip, frames=np.ones_like(clip.frames) * np.arange(20, dtype=np.uint8)[:, None, None, None]
    )
    spec = videoinr(lr_crop=8, hr_reduce=1, num_times=3, reverse_time=True)[0][1]
    directions = set()
    for seed in range(20):
        sample = _draw(clip, 3, spec, seed=seed)
        first, last = 255 * sample["frames"].mean(axis=(1, 2, 3))
        found = 255 * sample["target"].mean(axis=(1, 2, 3))
        np.testing.assert_allclose(found, first + (last - first) * sample["times"], atol=1e-3)
        directions.add(last > first)
    assert directions == {True, False}


def test_centre_sample_is_the_middle_and_all_frames(array_clip):
    clip = array_clip(height=72, width=80)
    spec = videoinr(lr_crop=8, hr_reduce=1)[0][1]
    sample = centre_sample(clip, 4, spec, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(sample["frames"], _unit(clip.frames[[4, 12]], 4)[:, 5:13, 6:14])
    np.testing.assert_array_equal(sample["times"], np.arange(9, dtype=np.float32) / 8)
    largest = centre_sample(
        clip, 4, videoinr(lr_crop=8, hr_reduce=1, stage2_step=0)[0][1], rng=np.random.default_rng(0)
    )
    assert largest["target"].shape == (9, 32, 32, 3)


def test_strides_are_drawn_among_those_that_stay_in_the_scene(array_clip):
    spec = zooming_slowmo(lr_crop=4, time_stride=(3, 1, 2))[0][1]
    assert (spec.span, spec.strides) == (7, (1, 2, 3))
    clip = array_clip(count=40, scenes=((0, 15), (15, 40)))
    rng = np.random.default_rng(0)
    drawn = {
        start: {draw_stride(rng, clip, start, spec) for _ in range(60)} for start in (0, 2, 3, 15, 21, 22, 33)
    }
    # Of 7 frames the last lies 6, 12 or 18 frames after the first; scenes end before 15 and 40.
    assert drawn == {0: {1, 2}, 2: {1, 2}, 3: {1}, 15: {1, 2, 3}, 21: {1, 2, 3}, 22: {1, 2}, 33: {1}}


def test_drawn_stride_is_that_of_the_frames(array_clip):
    spec = zooming_slowmo(lr_crop=4, time_stride=(2, 3))[0][1]
    frames = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 24, 24, 3))
    clip = dataclasses.replace(array_clip(count=40), frames=frames)
    seen = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sample = draw_sample(clip, 5, spec, rng=rng, batch_rng=np.random.default_rng(0))
        values = np.round(sample["target"][:, 0, 0, 0] * 255).astype(int)
        steps = set(np.abs(np.diff(values)))
        assert len(steps) == 1 and min(values) == 5
        seen |= steps
    assert seen == {2, 3}


DEGRADED = dataclasses.replace(DEGRADATIONS["video"], clean=0.3)
RECIPES = {
    "zooming_slowmo": zooming_slowmo(lr_crop=8),
    "videoinr": videoinr(lr_crop=8, hr_reduce=2),
    "videoinr stage 2": videoinr(lr_crop=8, stage2_step=0, quantize=False, hr_reduce=2),
}


@pytest.mark.parametrize("name", RECIPES)
def test_degradation_changes_the_input_alone_and_leaves_its_clean_share(array_clip, name):
    clip, spec = array_clip(height=70, width=80), RECIPES[name][0][1]
    degraded = dataclasses.replace(spec, degradation=DEGRADED)
    clean = 0
    for seed in range(60):
        plain, other = _draw(clip, 0, spec, seed=seed), _draw(clip, 0, degraded, seed=seed)
        for key in ("target", "times"):
            np.testing.assert_array_equal(plain[key], other[key])
        assert other["frames"].shape == plain["frames"].shape and other["frames"].dtype == np.float32
        clean += np.array_equal(plain["frames"], other["frames"])
    assert 8 <= clean <= 30


def test_degradation_comes_after_the_augmentation(array_clip, monkeypatch):
    # So that a video is coded in the direction in which it is given.
    clip, spec = array_clip(height=70, width=80), zooming_slowmo(lr_crop=8)[0][1]
    given = []
    monkeypatch.setattr(degradations, "degrade", lambda frames, *_, **__: given.append(frames) or frames)
    for seed in range(8):
        _draw(clip, 0, dataclasses.replace(spec, degradation=DEGRADED), seed=seed)
        np.testing.assert_array_equal(given[-1], _draw(clip, 0, spec, seed=seed)["frames"])


def test_centre_samples_are_degraded_by_their_generator(array_clip):
    clip = array_clip(height=72, width=80)
    spec = dataclasses.replace(
        zooming_slowmo(lr_crop=8)[0][1], degradation=dataclasses.replace(DEGRADED, clean=0)
    )
    plain = centre_sample(clip, 4, dataclasses.replace(spec, degradation=None), rng=np.random.default_rng(0))
    first, second, other = (centre_sample(clip, 4, spec, rng=np.random.default_rng(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first["frames"], second["frames"])
    np.testing.assert_array_equal(first["target"], plain["target"])
    assert not np.array_equal(first["frames"], other["frames"])
    assert not np.array_equal(first["frames"], plain["frames"])
