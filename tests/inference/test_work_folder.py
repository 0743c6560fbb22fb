"""Folders of unfinished outputs."""

import json

import pytest

from stvsr_jax.inference import work_folder
from stvsr_jax.inference.work_folder import WorkFolder


def test_progress_is_found_again_and_the_lock_kept(tmp_path):
    output = tmp_path / "out.mp4"
    folder = WorkFolder(output, {"crf": 1}, overwrite=False)
    assert folder.progress is None and folder.path == tmp_path / "out.mp4.unfinished"
    folder.save({"outputs": 3})
    with pytest.raises(ValueError, match="another process works on .*out.mp4"):
        WorkFolder(output, {"crf": 1}, overwrite=False)
    folder.close()
    again = WorkFolder(output, {"crf": 1}, overwrite=False)
    assert again.progress == {"outputs": 3}
    again.remove()
    again.close()
    assert list(tmp_path.iterdir()) == []


def test_another_request_is_named_or_replaces_the_work(tmp_path):
    output = tmp_path / "out.mp4"
    folder = WorkFolder(output, {"crf": 1, "space": 2}, overwrite=False)
    folder.save({"outputs": 3})
    (folder.path / "pictures").mkdir()
    folder.close()
    with pytest.raises(ValueError, match="differs in crf;"):
        WorkFolder(output, {"crf": 2, "space": 2}, overwrite=False)
    folder = WorkFolder(output, {"crf": 2, "space": 2}, overwrite=True)
    assert folder.progress is None and [f.name for f in folder.path.iterdir()] == ["lock"]
    folder.close()
    assert list(tmp_path.iterdir()) == []  # nothing was done


def test_a_folder_of_someone_else_is_left_alone(tmp_path):
    other = tmp_path / "out.mp4.unfinished"
    other.mkdir()
    (other / "mine").touch()
    with pytest.raises(ValueError, match="in the way"):
        WorkFolder(tmp_path / "out.mp4", {}, overwrite=True)
    assert [f.name for f in other.iterdir()] == ["mine"]


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"request": 3})])
def test_damaged_progress_is_named(tmp_path, text):
    folder = WorkFolder(tmp_path / "out.mp4", {"crf": 1}, overwrite=False)
    folder.save({})
    folder.close()
    (folder.path / "progress.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged; remove"):
        WorkFolder(tmp_path / "out.mp4", {"crf": 1}, overwrite=False)


@pytest.mark.parametrize("name", ["a.mp4", "x" * 240 + ".mp4", "x" * 251 + ".mp4", "ü" * 125 + ".mkv"])
def test_names_of_any_length_have_a_work_folder(tmp_path, name):
    output, other = tmp_path / name, tmp_path / f"{name[:-5]}y{name[-4:]}"
    folder = WorkFolder(output, {}, overwrite=False)
    folder.save({})
    assert folder.path.is_dir() and folder.path.name.endswith(".unfinished")
    assert folder.path != work_folder.path_of(other)
    folder.close()


def test_settings_of_unfinished_work_can_be_read_without_its_lock(tmp_path):
    output = tmp_path / "a.mp4"
    assert work_folder.saved_settings(output) == {}
    folder = work_folder.WorkFolder(output, {"dtype": "float16"}, overwrite=False)
    assert work_folder.saved_settings(output) == {}
    folder.save({"outputs": 1})
    assert work_folder.saved_settings(output) == {"dtype": "float16"}
    (work_folder.path_of(output) / "progress.json").write_text("damaged")
    assert work_folder.saved_settings(output) == {}
    folder.close()
