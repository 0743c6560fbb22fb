"""GoPro's folders are taken as published; what is missing or misplaced is named."""

import shutil

import pytest

from stvsr_jax.data.builders.gopro import Gopro
from stvsr_jax.data.splits import GOPRO_TEST


@pytest.fixture
def find(tmp_path):
    def find(source, **options):
        return Gopro(data_dir=tmp_path / "data", **options).find_clips(source)

    return find


def test_sequences_are_split_by_folder(gopro, find):
    root, frames = gopro
    for source in (root, root.parent):
        found = find(source)
        assert [clip.name for clip in found["train"]] == ["GOPR0372_07_00", "GOPR0372_07_01"]
        assert {clip.name for clip in found["test"]} == GOPRO_TEST and len(GOPRO_TEST) == 11
    read = list(found["train"][1].frames())
    assert [frame.tobytes() for frame in read] == [frame.tobytes() for frame in frames["GOPR0372_07_01"]]


def test_missing_sequences_are_named_unless_they_may_be(gopro, find):
    root, _ = gopro
    shutil.rmtree(root / "test" / "GOPR0871_11_00")
    with pytest.raises(
        ValueError, match="lacks 1 of what belongs to gopro: test/GOPR0871_11_00. .*--partial"
    ):
        find(root)
    assert len(find(root, is_partial=True)["test"]) == 10


def test_missing_frames_are_named(gopro, find):
    root, _ = gopro
    (root / "train" / "GOPR0372_07_01" / "000003.png").unlink()
    with pytest.raises(ValueError, match="GOPR0372_07_01 lacks 1 frames between its first and last: 3"):
        find(root, is_partial=True)


def test_sequences_in_the_other_folder_are_named(gopro, find):
    root, _ = gopro
    (root / "test" / "GOPR0384_11_00").rename(root / "train" / "GOPR0384_11_00")
    with pytest.raises(ValueError, match="GOPR0384_11_00 are not in the published folder"):
        find(root)


def test_other_layouts_are_answered_with_the_one_expected(find, tmp_path):
    with pytest.raises(
        ValueError, match="is not gopro as it is published; expected GOPRO_Large_all: train/NAME"
    ):
        find(tmp_path)
