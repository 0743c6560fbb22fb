"""Blur, noise and compression are what their numbers say, and the same for the same draws."""

import dataclasses
import time

import numpy as np
import pytest
from scipy import ndimage

from stvsr_jax.data import compression
from stvsr_jax.data.degradations import (
    DEGRADATIONS,
    add_noise,
    blur,
    blur_kernel,
    code_crop,
    degrade,
    parse_degradation,
)

VIDEO = DEGRADATIONS["video"]
NOTHING = dataclasses.replace(VIDEO, clean=0, blur=0, noise=0, coding=0)


@pytest.fixture
def window(draw_frames):
    """Return four frames of a moving texture, float32 [4, 32, 32, 3], whole levels."""
    return draw_frames(4, 32, 32).astype(np.float32) / np.float32(255)


def run(frames, degradation, seed=0, quantize=True):
    return degrade(frames, degradation, rng=np.random.default_rng(seed), quantize=quantize)


def psnr(a, b):
    return 10 * np.log10(1 / ((a.astype(np.float64) - b) ** 2).mean())


@pytest.mark.parametrize(
    ("sigma", "angle"), [((0.2, 0.2), 0), ((1.0, 1.0), 0.7), ((2.0, 0.5), 0.6), ((0.3, 1.4), 2.5)]
)
def test_kernel_sums_to_one_and_has_its_spread(sigma, angle):
    kernel = blur_kernel(sigma, angle)
    assert abs(kernel.sum() - 1) < 1e-12 and kernel.min() >= 0
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-15)
    radius = len(kernel) // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    covariance = np.array([[(kernel * a * b).sum() for b in (y, x)] for a in (y, x)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = turn @ np.diag(np.square(sigma)) @ turn.T
    if min(sigma) >= 0.5:  # narrower ones are sampled too coarsely to have theirs
        np.testing.assert_allclose(covariance, expected, atol=0.04 * np.square(sigma).max())


@pytest.mark.parametrize(("sigma", "angle"), [((0.8, 0.8), 0), ((1.5, 0.4), 0.6)])
def test_blur_equals_scipys_convolution(window, sigma, angle):
    kernel = blur_kernel(sigma, angle)
    expected = np.stack(
        [
            np.stack([ndimage.convolve(frame[..., c], kernel, mode="reflect") for c in range(3)], axis=-1)
            for frame in window.astype(np.float64)
        ]
    )
    np.testing.assert_allclose(blur(window, kernel), expected, atol=1e-6)


@pytest.mark.parametrize("is_grey", [True, False])
@pytest.mark.parametrize(("sigma", "gain"), [(3.0, 0.0), (0.0, 0.2), (2.0, 0.1)])
def test_noise_has_its_variance_and_is_new_in_each_frame(sigma, gain, is_grey):
    values = np.array([30, 120, 210], np.float32)[:, None]
    frames = np.broadcast_to(values[:, :, None], (2, 3, 40_000, 3)).copy()
    noise = add_noise(frames, rng=np.random.default_rng(0), sigma=sigma, gain=gain, is_grey=is_grey) - frames
    np.testing.assert_allclose(noise.var(axis=(0, 2, 3)), sigma**2 + gain * values[:, 0], rtol=0.03)
    assert abs(np.corrcoef(noise[0, 1, :, 0], noise[1, 1, :, 0])[0, 1]) < 0.03
    between = np.corrcoef(noise[0, 1, :, 0], noise[0, 1, :, 2])[0, 1]
    assert between > 0.999 if is_grey else abs(between) < 0.03


def test_clean_samples_are_untouched_and_their_share_is_right(window):
    half = dataclasses.replace(VIDEO, clean=0.5, coding=0, noise=1, noise_sigma=(4, 5))
    results = [run(window, half, seed) for seed in range(300)]
    clean = sum(result is window for result in results)
    assert 120 < clean < 180
    assert all(result is window or np.abs(result - window).max() > 0.01 for result in results)


def test_nothing_drawn_is_nothing_done(window):
    np.testing.assert_allclose(run(window, NOTHING), window, atol=1e-7)
    between = window * np.float32(0.999)
    np.testing.assert_allclose(run(between, NOTHING, quantize=False), between, atol=1e-7)
    rounded = run(between, NOTHING) * 255
    assert np.abs(rounded - np.round(rounded)).max() < 1e-4


def test_blur_is_the_same_in_all_frames(draw_frames):
    still = draw_frames(1, 32, 32).repeat(4, axis=0).astype(np.float32) / np.float32(255)
    result = run(still, dataclasses.replace(NOTHING, blur=1, blur_sigma=(0.5, 1.5)))
    assert np.abs(result - still).max() > 0.02
    np.testing.assert_array_equal(result, result[:1].repeat(4, axis=0))


def test_artefacts_of_a_still_picture_stay_where_they_are(draw_frames):
    # Coded frame by frame, as pictures are, they would differ as much as those of two different crfs.
    still = draw_frames(1, 32, 32).repeat(4, axis=0)
    coded = code_crop(still, compression.H264(32), lead=0, place=(5, 9)).astype(np.float64)
    apart = np.concatenate(
        [code_crop(still[:1], compression.H264(crf), lead=0, place=(5, 9)) for crf in (30, 32, 34, 36)]
    ).astype(np.float64)
    changes = [
        (np.diff(frames, axis=0) ** 2).mean() / ((frames - still) ** 2).mean() for frames in (coded, apart)
    ]
    assert changes[0] < 0.5 * changes[1], changes


def test_artefacts_move_with_what_they_are_on(draw_frames):
    """The error of a frame is like that of the one before, moved as the picture moves."""
    frames = np.stack([draw_frames(1, 40, 80)[0, 4:36, 2 * n : 2 * n + 32] for n in range(8)])
    coded = code_crop(frames, compression.H264(34), lead=3, place=(3, 7)).astype(np.float64) - frames
    before, after = coded[:-1, 4:28, 6:28], coded[1:, 4:28, 4:26]
    still = coded[1:, 4:28, 6:28]
    moved, stayed = (np.corrcoef(before.ravel(), other.ravel())[0, 1] for other in (after, still))
    assert moved > 0.35 and moved > stayed + 0.2, (moved, stayed)


def test_psnr_falls_with_crf(window):
    found = [
        psnr(run(window, dataclasses.replace(NOTHING, coding=1, crf=(crf, crf), gops=(250,)), 3), window)
        for crf in (10.0, 20.0, 28.0, 36.0)
    ]
    assert all(a > b + 1 for a, b in zip(found[:-1], found[1:], strict=True)), found


@pytest.mark.parametrize("shape", [(4, 32, 32), (2, 4, 4), (2, 33, 20)])
@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize("place", [(1, 1), (16, 5)])
def test_crop_comes_back_in_place(draw_frames, shape, lead, place):
    frames = draw_frames(*shape).mean(axis=-1, keepdims=True).round().astype(np.uint8).repeat(3, axis=-1)
    coded = code_crop(frames, compression.H264(1), lead=lead, place=place)
    assert coded.shape == frames.shape
    assert np.abs(coded.astype(int) - frames).max() <= 3


def test_blocks_lie_where_the_place_says(draw_frames):
    # At a poor quality without deblocking the picture jumps from block to block.
    frames = draw_frames(1, 32, 32, seed=3)
    jumps = np.zeros(16)
    for first in range(1, 17):
        coded = code_crop(frames, compression.H264(44, "ultrafast"), lead=0, place=(8, first)).astype(float)
        steps = np.abs(np.diff(coded, n=2, axis=2)).mean((0, 1, 3))
        for n, step in enumerate(steps):
            jumps[(n + first) % 16] += step / 30
    # Blocks of halved chroma are 8 pixels wide, those of luma half of that.
    assert (
        jumps.argmax() % 8 in (6, 7)
        and jumps[[6, 7, 14, 15]].min() > 1.1 * np.delete(jumps, [6, 7, 14, 15]).max()
    )


def test_same_draws_same_pixels(window):
    every = dataclasses.replace(VIDEO, clean=0, blur=1, noise=1, coding=1)
    first, second, other = run(window, every, 1), run(window, every, 1), run(window, every, 2)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32 and first.shape == window.shape
    assert first.min() >= 0 and first.max() <= 1


def test_names_and_options(window):
    assert parse_degradation("") is None
    assert parse_degradation("video") == VIDEO
    changed = parse_degradation("('video', {'crf': (20, 30), 'clean': 0})")
    assert changed == dataclasses.replace(VIDEO, crf=(20, 30), clean=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vhs", r"degrade='vhs' is not one of \['video'\]"),
        ("('video',", "is not written like"),
        ("('video', 3)", "is not written like"),
        ("('video', {}, 1)", "is not written like"),
        ("('video', {'crv': 1})", r"unknown options \['crv'\]; they are .*'crf'"),
        ("('video', {'clean': 1.5})", "clean=1.5 must be a share from 0 to 1"),
        ("('video', {'noise': '1'})", "noise=1 must be a share"),
        ("('video', {'crf': 23})", r"crf=23 must be a \(low, high\) range"),
        ("('video', {'crf': (30, 20)})", r"crf=\(30, 20\) must be"),
        ("('video', {'crf': (30, 60)})", "crf=60 must be from 0 to 51"),
        ("('video', {'blur_sigma': (0, 1)})", "blur_sigma=.* must be above 0"),
        ("('video', {'presets': ()})", "presets=.* at least one"),
        ("('video', {'presets': ('placebo',)})", "preset='placebo' is not one of"),
        ("('video', {'gops': (0,)})", "gop=0 must be"),
        ("('video', {'gops': ('a',)})", "degrade: "),
    ],
)
def test_wrong_texts_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_degradation(text)


def test_a_sample_costs_a_few_milliseconds(window):
    every = dataclasses.replace(VIDEO, clean=0, blur=1, noise=1, coding=1)
    seconds = []
    for seed in range(20):
        began = time.thread_time()
        run(window, every, seed)
        seconds.append(time.thread_time() - began)
    assert np.median(seconds) < 0.015
