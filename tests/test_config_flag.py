"""The flag --config: files, and configs of the package by name."""

import os
import pathlib
import subprocess
import sys

import pytest

from stvsr_jax import config_flag
from tests.limits import HANG

ROOT = pathlib.Path(__file__).parents[1]
PARSE = """
import sys
from absl import flags
from stvsr_jax import config_flag
flags.DEFINE_integer("count", 1, "")
config = config_flag.define()
rest = config_flag.parse(sys.argv, config, "how to use it\\n")
print(rest[1:], flags.FLAGS.count, config.value.seed, config.value.data.batch_size)
"""


def parse(*arguments):
    """Return (exit code, stdout, stderr) of a program that parses its arguments: flags can be parsed once in a process."""
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        timeout=HANG,
    )
    return done.returncode, done.stdout, done.stderr


def test_flags_and_keys_are_parsed():
    code, out, err = parse("--config", "videoinr:quick", "--config.seed=7", "x", "--count=3")
    assert (code, out) == (0, "['x'] 3 7 4\n"), err
    assert parse("--config=nothing.py", "--help")[:2] == (0, "how to use it\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/videoinr.py", "--config.foo=1"], "--config has no key 'foo'"),
        (["configs/videoinr.py", "--config.data.batchsize=1"], 'mean "batch_size"'),
        (["configs/videoinr.py", "--config.data.batch_size=many"], "config.data.batch_size=many"),
        (["configs/videoinr.py:slow"], "variant 'slow' is not one of ('', 'quick')"),
        (["nowhere.py"], "No such file or directory: 'nowhere.py'"),
        (["vidoinr"], "did you mean videoinr?"),
        (["videoinr", "--counts=3"], "Unknown command line flag 'counts'"),
        (["videoinr", "--count=many"], "count=many"),
    ],
)
def test_what_is_wrong_ends_with_one_line(arguments, message):
    code, out, err = parse("--config", *arguments)
    assert code == 2 and out == "" and message in err
    assert err.startswith("error: ") and err.count("\n") == 1


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
