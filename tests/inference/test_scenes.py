"""Streaming scene ends against the detector on the whole clip."""

from fractions import Fraction

import numpy as np
import pytest

from stvsr_jax.inference.scenes import mark_scene_ends
from stvsr_jax.video import scene_cuts
from stvsr_jax.video.sequential_reader import TimedFrame


def clip(lengths, seed=0):
    """Scenes of slowly moving noise, [N, 36, 64, 3]."""
    rng = np.random.default_rng(seed)
    images = []
    for length in lengths:
        scene = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        images += [np.roll(scene, i, axis=1) for i in range(length)]
    return images


def marks(images, threshold=scene_cuts.DEFAULT_THRESHOLD):
    frames = [TimedFrame(image, Fraction(i), Fraction(1)) for i, image in enumerate(images)]
    marked = list(mark_scene_ends(frames, threshold=threshold))
    assert [frame for frame, _ in marked] == frames
    return [i for i, (_, is_last) in enumerate(marked) if is_last]


@pytest.mark.parametrize("lengths", [(1,), (5,), (12, 3, 20), (30, 31), (4, 4, 4, 4), (25, 1, 25)])
def test_streaming_equals_the_whole_clip(lengths):
    images = clip(lengths)
    thumbnails = np.stack([scene_cuts.thumbnail(image) for image in images])
    cuts = scene_cuts.find_cuts(thumbnails, is_flash_cut=True)
    assert marks(images) == [cut - 1 for cut in cuts] + [len(images) - 1]


def test_cuts_are_found():
    assert marks(clip((20, 30))) == [19, 49]


def test_zero_looks_for_none():
    assert marks(clip((20, 30)), threshold=0) == [49]


@pytest.mark.parametrize(
    "lengths", [(20, 1, 20), (20, 2, 20), (12, 1, 1, 1, 12), (12, 2, 1, 2, 2, 1, 12), (1, 1, 9)]
)
def test_scenes_of_one_or_two_frames_are_scenes(lengths):
    assert marks(clip(lengths)) == [end - 1 for end in np.cumsum(lengths)]


@pytest.mark.parametrize("length", [1, 2])
def test_what_is_inserted_into_a_scene_is_a_scene_of_its_own(length):
    images = clip((40,))
    for tone in (0, 255):
        flash = [np.full_like(images[0], tone)] * length
        assert marks(images[:20] + flash + images[20:]) == [19, 19 + length, 39 + length]
