"""Files that appear whole or not at all, the entries of the cache, lists of images and names that fit."""

import resource

import numpy as np
import pytest

from stvsr_jax import files


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.replacing(path) as draft:
        draft.write_text("half")
        assert not path.exists() and draft.suffix == ".txt"
        draft.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), files.replacing(path) as draft:
        draft.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_entries_are_read_as_written_and_damaged_ones_are_none(tmp_path):
    files.write_json(tmp_path / "a.json", {"width": 48})
    assert files.read_json(tmp_path / "a.json") == {"width": 48}
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    files.write_array(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(files.read_array(tmp_path / "a.npy"), values)
    for name, read in (("a.json", files.read_json), ("a.npy", files.read_array)):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:5])
        assert read(tmp_path / name) is None
        assert read(tmp_path / f"no {name}") is None


def test_an_array_that_the_disk_has_no_room_for_is_named(tmp_path):
    path, (soft, hard) = tmp_path / "a.npy", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # of each file, as if the disk were full
    try:
        with pytest.raises(OSError, match=f"{path} cannot be written: "):
            files.write_array(path, np.zeros(5000, np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_entries_of_other_facts_have_other_names(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entries = {
        files.entry_path(None, kind, facts) for kind in ("videos", "photos") for facts in ([1], [2], ["1"])
    }
    assert len(entries) == 6
    assert files.entry_path(None, "videos", [1]) in entries
    assert all(entry.is_relative_to(tmp_path / "stvsr_jax") for entry in entries)


def test_natural_key_counts():
    names = ["f10.png", "f9.png", "f09b.png", "a.png", "1.png"]
    assert sorted(names, key=files.natural_key) == ["1.png", "a.png", "f9.png", "f09b.png", "f10.png"]


def test_images_are_listed_in_natural_order_without_hidden_and_other_files(tmp_path):
    for name in ("b10.png", "b9.JPG", ".b1.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dead.png").symlink_to(tmp_path / "nowhere.png")
    assert files.list_images(tmp_path) == ("b9.JPG", "b10.png", "dead.png")


@pytest.mark.parametrize("character", ["a", "ä"])
def test_long_names_are_shortened_and_stay_apart(tmp_path, character):
    long = character * (255 // len(character.encode()))
    fitted = [files.fit_name(tmp_path / name, ".unfinished") for name in (long, long[:-1] + "b", "short")]
    assert all(len(path.name.encode()) <= 255 and path.name.endswith(".unfinished") for path in fitted)
    assert len(set(fitted)) == 3 and fitted[2].name == "short.unfinished"
    fitted[0].touch()  # the file system takes it
