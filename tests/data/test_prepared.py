"""Prepared clips read like any other clip, at random, in any process, and say what is wrong with their files."""

import concurrent.futures
import json
import pickle
import shutil
import time

import numpy as np
import pytest

from stvsr_jax.data import prepared
from stvsr_jax.data.pipeline import Part, make_train_dataset
from stvsr_jax.data.windows import zooming_slowmo


@pytest.fixture
def folder(gopro, tmp_path):
    from stvsr_jax.data import prepare

    return prepare.prepare("gopro", source=gopro[0], data_dir=tmp_path / "data")


def test_frames_and_crops_are_those_of_the_source(folder, gopro):
    for split in ("train", "test"):
        for clip in prepared.open_split(folder, split):
            frames = gopro[1][clip.name]
            assert (clip.num_frames, clip.height, clip.width) == frames.shape[:3]
            assert clip.scenes == ((0, len(frames)),)
            np.testing.assert_array_equal(clip.read([3, 0, 3]), frames[[3, 0, 3]])
            np.testing.assert_array_equal(clip.read([2], (5, 7, 11, 13)), frames[2:3, 5:16, 7:20])


def test_set_is_found_by_its_name_or_version(folder):
    assert prepared.find_prepared(folder) == prepared.find_prepared(folder.parent) == folder
    shutil.copytree(folder, folder.parent / "10.0.0")
    assert prepared.find_prepared(folder.parent) == folder.parent / "10.0.0"
    assert prepared.find_prepared(folder.parent.parent) is None


def test_clips_travel_to_worker_processes(folder):
    clips = prepared.open_split(folder, "train")
    assert pickle.loads(pickle.dumps(clips)) == clips
    recipe = zooming_slowmo(window=3, lr_crop=4)
    expected, found = (
        [next(iterator) for _ in range(4)]
        for workers in (0, 2)
        for iterator in [
            iter(make_train_dataset([Part(clips, recipe)], batch_size=2, seed=0, num_workers=workers))
        ]
    )
    for a, b in zip(expected, found, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_threads_open_a_set_one_at_a_time(folder, monkeypatch):
    inside, most, opened = [], [], []
    real = prepared._open_builder

    def slow(path):
        inside.append(path)
        most.append(len(inside))
        time.sleep(0.05)
        opened.append(real(path))
        inside.pop()
        return opened[-1]

    clip = prepared.open_split(folder, "train")[0]
    prepared._open_records.cache_clear()
    monkeypatch.setattr(prepared, "_open_builder", slow)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: clip.read([n % 4]), range(16)))
    assert most == [1] and len(found) == 16


def test_wrong_frames_are_named(folder):
    clip = prepared.open_split(folder, "train")[0]
    with pytest.raises(ValueError, match=r"was asked for frames \[4\]"):
        clip.read([4])


def test_damage_is_named(folder):
    (first, *_) = sorted(folder.glob("gopro-train*"))
    clip = prepared.open_split(folder, "train")[0]
    data = bytearray(first.read_bytes())
    data[200:3000] = bytes(2800)
    first.write_bytes(data)
    with pytest.raises(ValueError, match=r"frames \[0\] of GOPR0372_07_00 in .*split train, cannot be read"):
        clip.read([0])
    first.unlink()
    with pytest.raises(ValueError, match="lacks 1 files: gopro-train.array_record-00000-of-00002"):
        prepared.open_split(folder, "train")


def test_other_sets_and_splits_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"has no split 'validation'; it has \['test', 'train'\]"):
        prepared.open_split(folder, "validation")
    with pytest.raises(ValueError, match="holds no prepared data set; make one with"):
        prepared.open_split(tmp_path, "train")
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(metadata | {"tiles": 1}))
    with pytest.raises(
        ValueError, match="prepared by another version of this package.*prepare it again with"
    ):
        prepared.open_split(folder, "train")
    (folder / "metadata.json").unlink()
    with pytest.raises(ValueError, match="is a TFDS data set, but not one that"):
        prepared.open_split(folder, "train")
