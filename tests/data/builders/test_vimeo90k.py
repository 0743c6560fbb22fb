"""Vimeo-90k is found extracted or zipped, split by its lists, and what is missing is named."""

import shutil
import zipfile

import pytest

from stvsr_jax.data.builders.source_clip import ImageClip, ZippedClip
from stvsr_jax.data.builders.vimeo90k import Vimeo90k


@pytest.fixture
def find(tmp_path):
    def find(source, **options):
        return Vimeo90k(data_dir=tmp_path / "data", **options).find_clips(source)

    return find


def names(found):
    return {split: [clip.name for clip in clips] for split, clips in found.items()}


EXPECTED = {"train": ["00001/0001", "00001/0002", "00002/0001"], "test": ["00001/0266", "00001/0268"]}


def zip_up(root, path, prefix):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


def test_extracted_archive_is_split_by_its_lists(vimeo, find):
    root, _ = vimeo
    for source in (root, root.parent):
        found = find(source)
        assert names(found) == EXPECTED
        assert all(isinstance(clip, ImageClip) and clip.num_frames == 7 for clip in found["train"])


@pytest.mark.parametrize("prefix", ["vimeo_septuplet/", ""])
def test_zip_archive_is_read_as_it_is(vimeo, find, tmp_path, prefix):
    root, frames = vimeo
    (tmp_path / "zips").mkdir()
    archive = zip_up(root, tmp_path / "zips" / "vimeo_septuplet.zip", prefix)
    for source in (archive, archive.parent):
        found = find(source)
        assert names(found) == EXPECTED
    clip = found["test"][1]
    assert isinstance(clip, ZippedClip)
    assert [frame.tobytes() for frame in clip.frames()] == [f.tobytes() for f in frames["00001/0268"]]


def test_test_lists_make_further_splits(vimeo, find, tmp_path):
    (tmp_path / "fast.txt").write_text("00001/0268\n")
    found = find(vimeo[0], test_lists={"fast": tmp_path / "fast.txt"})
    assert names(found) == EXPECTED | {"test_fast": ["00001/0268"]}


def test_missing_frames_are_named_unless_they_may_be(vimeo, find):
    root, _ = vimeo
    (root / "sequences" / "00001" / "0002" / "im4.png").unlink()
    shutil.rmtree(root / "sequences" / "00001" / "0266")
    with pytest.raises(ValueError, match="lacks 8 .*: 00001/0002/im4.png, 00001/0266/im1.png, .*--partial"):
        find(root)
    assert names(find(root, is_partial=True)) == {
        "train": ["00001/0001", "00002/0001"],
        "test": ["00001/0268"],
    }


def test_missing_members_of_the_archive_are_named(vimeo, find, tmp_path):
    (vimeo[0] / "sequences" / "00001" / "0002" / "im4.png").unlink()
    with pytest.raises(ValueError, match="lacks 1 .*: 00001/0002/im4.png"):
        find(zip_up(vimeo[0], tmp_path / "all.zip", ""))


@pytest.mark.parametrize(
    ("line", "message"),
    [("00001/1\n", "'00001/1'; each must be"), ("00001/0001\n" * 2, "names 1 clips twice"), ("", "is empty")],
)
def test_wrong_lists_are_named(vimeo, find, line, message):
    (vimeo[0] / "sep_trainlist.txt").write_text(line)
    with pytest.raises(ValueError, match=f"sep_trainlist.txt .*{message}"):
        find(vimeo[0])


def test_other_layouts_are_answered_with_the_one_expected(vimeo, find, tmp_path):
    (vimeo[0] / "sep_testlist.txt").unlink()
    with pytest.raises(
        ValueError, match="is not vimeo90k as it is published; expected vimeo_septuplet.zip, or"
    ):
        find(vimeo[0])
    (tmp_path / "broken.zip").write_bytes(b"PK half of it")
    with pytest.raises(ValueError, match="broken.zip cannot be read as a zip archive .* download complete?"):
        find(tmp_path / "broken.zip")
