"""Augmentations do what they are called, and draws are uniform and reproducible."""

import itertools

import numpy as np

from stvsr_jax.data.transforms import (
    Augmentation,
    augment,
    centre_corner,
    draw_augmentation,
    draw_corner,
    draw_times,
)


def _sample():
    rng = np.random.default_rng(0)
    return {
        "frames": rng.uniform(size=(2, 4, 4, 3)).astype(np.float32),
        "target": rng.uniform(size=(3, 8, 8, 3)).astype(np.float32),
        "times": np.array([0.125, 0.5, 0.75], np.float32),
    }


def test_each_symmetry_moves_pixels_as_named():
    sample = _sample()
    frames, target = sample["frames"], sample["target"]
    np.testing.assert_array_equal(
        augment(sample, Augmentation(flip_x=True))["frames"][:, 1, 0], frames[:, 1, 3]
    )
    np.testing.assert_array_equal(
        augment(sample, Augmentation(flip_y=True))["target"][:, 0, 2], target[:, 7, 2]
    )
    np.testing.assert_array_equal(
        augment(sample, Augmentation(transpose=True))["target"][:, 5, 2], target[:, 2, 5]
    )
    reverse = augment(sample, Augmentation(reverse_time=True))
    np.testing.assert_array_equal(reverse["frames"], frames[::-1])
    np.testing.assert_array_equal(reverse["target"][0], target[2])
    np.testing.assert_array_equal(reverse["times"], np.array([0.25, 0.5, 0.875], np.float32))


def test_nothing_asked_changes_nothing():
    sample, found = _sample(), augment(_sample(), Augmentation())
    for key in sample:
        np.testing.assert_array_equal(found[key], sample[key])
        assert found[key].dtype == np.float32


def test_every_combination_is_drawn_equally_often():
    rng = np.random.default_rng(0)
    draws = [draw_augmentation(rng, reverse_time=True) for _ in range(3200)]
    for flags in itertools.product((False, True), repeat=4):
        assert 130 < draws.count(Augmentation(*flags)) < 270
    assert not any(draw_augmentation(rng, reverse_time=False).reverse_time for _ in range(100))


def test_corners_cover_every_position():
    rng = np.random.default_rng(0)
    corners = {draw_corner(rng, (10, 12), (8, 8)) for _ in range(500)}
    assert corners == set(itertools.product(range(3), range(5)))
    assert draw_corner(rng, (8, 8), (8, 8)) == (0, 0)
    assert centre_corner((11, 20), (8, 8)) == (1, 6)


def test_times_are_different_and_ascending():
    rng = np.random.default_rng(0)
    draws = [draw_times(rng, 9, 3) for _ in range(300)]
    assert all((np.diff(draw) > 0).all() for draw in draws)
    assert {int(n) for draw in draws for n in draw} == set(range(9))
    np.testing.assert_array_equal(draw_times(rng, 5, 5), np.arange(5))
