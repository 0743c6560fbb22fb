"""A set made of a run, of a checkpoint and of arrays in parts."""

import json

import jax
import numpy as np
import pytest

from stvsr_jax import checkpoint
from stvsr_jax.models.spec import ModelSpec, param_shapes
from stvsr_jax.training import train
from stvsr_jax.weights import files, publish

SMALL = {"features": 8, "front_blocks": 1, "back_blocks": 1, "groups": 2}


@pytest.fixture
def card(facts, tmp_path):
    """Return the path of a file of facts."""
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    return tmp_path / "facts.json"


def run(capsys, *args):
    """Returns the exit code, what was printed and the error."""
    code = publish.main([str(arg) for arg in args])
    return code, *capsys.readouterr()


def random_params(spec):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype("f"), param_shapes(spec.build()))


def write_parts(folder, params, count=2):
    """Writes float16 parts; returns their paths."""
    arrays = list(files.flatten(params).items())
    paths = [folder / f"part{i}.npz" for i in range(count)]
    for i, path in enumerate(paths):
        np.savez(path, **{name: array.astype(np.float16) for name, array in arrays[i::count]})
    return paths


def test_arrays_in_parts_become_a_set(tmp_path, card, capsys):
    params = random_params(ModelSpec("zooming_slowmo", SMALL))
    parts = write_parts(tmp_path, params)
    arguments = (
        "--name",
        "video",
        "--network",
        "zooming_slowmo",
        "--fields",
        json.dumps(SMALL),
        "--card",
        card,
    )
    code, out, error = run(capsys, *parts, tmp_path / "sets", *arguments)
    assert (code, error) == (0, "")
    restored = files.read(files.layout_of(tmp_path / "sets", "video"))
    assert (restored.model_name, restored.model_kwargs, restored.step) == ("zooming_slowmo", SMALL, 7)
    expected = {name: array.astype(np.float16) for name, array in files.flatten(params).items()}
    for name, array in files.flatten(restored.params).items():
        np.testing.assert_array_equal(array, expected[name])
    assert files.read_description(tmp_path / "sets" / "video.json").sha256 in out
    assert "# video" in (tmp_path / "sets" / "video.md").read_text()


def test_the_average_of_a_run_is_taken_unless_told_otherwise(run_with_average, card, tmp_path, capsys):
    directory, ema, raw = run_with_average
    for flags, expected in (((), ema), (("--weights", "raw"), raw)):
        code, _, error = run(
            capsys,
            directory,
            tmp_path,
            "--name",
            "linear",
            "--card",
            card,
            "--dtype",
            "float32",
            "--overwrite",
            *flags,
        )
        assert (code, error) == (0, "")
        jax.tree.map(
            np.testing.assert_array_equal, files.read(files.layout_of(tmp_path, "linear")).params, expected
        )


@pytest.fixture
def run_with_average(config, tmp_path):
    """Return the directory of a run, its average and its last parameters."""
    config.optimizer.ema_decay = 0.9
    run = tmp_path / "run"
    train.train_and_evaluate(config, run)
    loaded = [jax.device_get(checkpoint.load_for_inference(run, weights=w).params) for w in ("ema", "raw")]
    assert not np.array_equal(loaded[0]["into"], loaded[1]["into"])
    return run, *loaded


def test_what_does_not_fit_is_one_line(tmp_path, card, facts, capsys):
    parts = write_parts(tmp_path, random_params(ModelSpec("zooming_slowmo", SMALL)))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "bad.json").write_text(json.dumps({**facts, "scores": []}))
    sizes = ("--fields", json.dumps(SMALL))
    usual = ("--name", "zooming_slowmo", "--card", card, *sizes)
    for arguments, message in [
        ((parts[0], tmp_path / "out", *usual), "the parameters are not those of zooming_slowmo: missing:"),
        ((*parts, parts[0], tmp_path / "out", *usual), "part0.npz holds"),
        (
            (*parts, tmp_path / "out", "--name", "video", "--card", card),
            "--network is needed: video is not one",
        ),
        (
            (*parts, tmp_path / "out", "--name", "zooming_slowmo", "--card", tmp_path / "bad.json"),
            "scores=[]",
        ),
        (
            (*parts, tmp_path / "out", "--name", "zooming_slowmo", "--card", tmp_path / "no.json"),
            "No such file",
        ),
        ((tmp_path / "text.npz", tmp_path / "out", *usual), "text.npz cannot be read as .npz"),
        ((tmp_path / "no.npz", tmp_path / "out", *usual), "no.npz cannot be read as .npz"),
        ((tmp_path, tmp_path / "out", "--name", "x", "--card", card), "holds no checkpoint"),
        (
            (tmp_path, parts[0], tmp_path / "out", "--name", "x", "--card", card),
            "several sources must be .npz",
        ),
        ((tmp_path, tmp_path / "out", *usual), "--network and --fields go with .npz files"),
    ]:
        code, out, error = run(capsys, *arguments)
        assert (code, out, error.count("\n")) == (2, "", 1), arguments
        assert message in error, error
    assert not (tmp_path / "out").exists()
