"""Scenes in .npy files are read as written, and other arrays are refused."""

import pickle

import numpy as np
import pytest

from stvsr_jax.data.array_file import open_array_file


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 12, 16, 3)).astype(np.uint8)


def test_frames_and_crops_are_those_of_the_file(frames, tmp_path):
    np.save(tmp_path / "scene.npy", frames)
    clip = pickle.loads(pickle.dumps(open_array_file(tmp_path / "scene.npy")))
    assert (clip.name, clip.num_frames, clip.height, clip.width, clip.scenes) == (
        "scene",
        5,
        12,
        16,
        ((0, 5),),
    )
    np.testing.assert_array_equal(clip.read([3, 0, 3]), frames[[3, 0, 3]])
    np.testing.assert_array_equal(clip.read([1], (2, 4, 6, 8)), frames[1:2, 2:8, 4:12])
    with pytest.raises(ValueError, match="frames"):
        clip.read([5])


@pytest.mark.parametrize(
    "wrong", [np.zeros((5, 12, 16, 3)), np.zeros((5, 12, 16), np.uint8), np.zeros((0, 2, 2, 3), np.uint8)]
)
def test_other_arrays_are_refused(wrong, tmp_path):
    np.save(tmp_path / "scene.npy", wrong)
    with pytest.raises(ValueError, match=r"frames must be uint8 \[N, H, W, 3\]"):
        open_array_file(tmp_path / "scene.npy")


def test_archives_under_another_name_are_refused(tmp_path):
    np.savez(tmp_path / "scene.npz", a=np.zeros(2))
    (tmp_path / "scene.npz").rename(tmp_path / "scene.npy")
    with pytest.raises(ValueError, match=r"scene\.npy cannot be read as an array: it is an archive"):
        open_array_file(tmp_path / "scene.npy")


def test_what_is_no_array_is_refused(tmp_path):
    (tmp_path / "scene.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"scene\.npy cannot be read as an array"):
        open_array_file(tmp_path / "scene.npy")
