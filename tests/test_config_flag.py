"""The flag --config: files, and configs of the package by name."""

import pathlib

import pytest

from stvsr_jax import config_flag


def test_names_are_those_of_the_configs_folder():
    root = pathlib.Path(__file__).parents[1]
    assert config_flag.list_names() == sorted(path.stem for path in (root / "configs").glob("*.py"))


@pytest.mark.parametrize("variant", ["", ":quick"])
def test_a_name_is_a_file_of_the_package_unless_there_is_one(tmp_path, monkeypatch, variant):
    monkeypatch.chdir(tmp_path)
    assert config_flag.find(f"videoinr{variant}") == f"{config_flag.FOLDER / 'videoinr.py'}{variant}"
    assert config_flag.find(f"configs/own.py{variant}") == f"configs/own.py{variant}"
    (tmp_path / "videoinr").write_text("")
    assert config_flag.find(f"videoinr{variant}") == f"videoinr{variant}"


def test_unknown_name_is_told_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--config zooming_slomo is no file.*; did you mean zooming_slowmo"):
        config_flag.find("zooming_slomo")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config", "videoinr"], ["--config", "{}"]),
        (["--config=videoinr"], ["--config={}"]),
        (
            ["--config", "a.py", "--config.model.name=videoinr"],
            ["--config", "a.py", "--config.model.name=videoinr"],
        ),
        (["--workdir", "videoinr"], ["--workdir", "videoinr"]),
        (["--config"], ["--config"]),
    ],
)
def test_only_the_value_of_the_flag_is_looked_up(words, expected):
    file = str(config_flag.FOLDER / "videoinr.py")
    assert config_flag._find_all(words) == [word.replace("{}", file) for word in expected]
