"""Parameters leave a run in files of limited size and come back as a checkpoint, also of a network that shares some."""

import importlib.util
import pathlib

import flax.traverse_util
import jax
import numpy as np
import pytest

from stvsr_jax import checkpoint

SCRIPT = pathlib.Path(__file__).parents[1] / "launch" / "parameters.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("parameters", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(directory, **options):
    params = checkpoint.load_for_inference(directory, **options).params
    return flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")


def test_parts_hold_every_parameter_of_a_run_within_the_limit(run, tmp_path, script):
    largest = max(value.nbytes for value in flat(run).values())
    paths = script.pack(
        str(run), tmp_path / "parts", dtype="float32", weights="raw", megabytes=1.5 * largest / 1e6
    )
    assert len(paths) > 1 and all(path.name.startswith("linear_raw_4.") for path in paths)
    found = {}
    for path in paths:
        with np.load(path) as part:
            assert sum(part[name].nbytes for name in part.files) <= 1.5 * largest
            found.update({name: part[name] for name in part.files})
    expected = flat(run, weights="raw")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_parts_become_a_checkpoint(run, tmp_path, script):
    script.pack(str(run), tmp_path / "parts", dtype="float16", weights="ema", megabytes=1)
    script.unpack(tmp_path / "parts", str(tmp_path / "back"), model="linear", partly=False)
    expected = flat(run)
    back = flat(tmp_path / "back")
    assert back.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(back[name], value.astype(np.float16).astype(np.float32))


def test_what_is_missing_is_refused_or_drawn(run, tmp_path, script):
    (path,) = script.pack(str(run), tmp_path / "parts", dtype="float32", weights="raw", megabytes=1)
    with np.load(path) as part:
        kept = {"into": part["into"]}
    np.savez(path, **kept)
    with pytest.raises(ValueError, match="lacks 1 parameters of linear, the first is out"):
        script.unpack(tmp_path / "parts", str(tmp_path / "back"), model="linear", partly=False)
    script.unpack(tmp_path / "parts", str(tmp_path / "back"), model="linear", partly=True)
    back = flat(tmp_path / "back")
    np.testing.assert_array_equal(back["into"], kept["into"])
    assert np.isfinite(back["out"]).all() and back["out"].any()
    np.savez(path, into=np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"into has shape \(2, 2\), in linear it is \(3, 4\)"):
        script.unpack(tmp_path / "parts", str(tmp_path / "other"), model="linear", partly=True)
