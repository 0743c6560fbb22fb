"""Exported networks, run where this package cannot be imported."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh
from PIL import Image

from stvsr_jax import checkpoint, export, models
from stvsr_jax.inference.predictor import Predictor
from stvsr_jax.models.siren import FREQUENCY

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "run_exported.py"
SMALL = dict(features=8, front_blocks=1, back_blocks=1, groups=2)
FIELDS = {"zooming_slowmo": SMALL, "videoinr": {**SMALL, "hidden": (8, 8, 8)}}


def random_params(model):
    shapes = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, x):
        # The products between two sines, as in a network at its start: larger ones make noise of every rounding.
        scale = 0.1 / FREQUENCY if path[-1].key in ("kernel1", "kernel2", "kernel3") else 0.1
        return rng.normal(0, scale, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def save_network(directory, name):
    """Writes a checkpoint with weights that change the picture visibly; returns (model, params)."""
    spec = checkpoint.ModelSpec(name, FIELDS[name])
    model = spec.build()
    params = random_params(model)
    checkpoint.save_params(directory, params, spec)
    return model, params


@pytest.mark.parametrize(
    ("name", "space", "time", "count"), [("zooming_slowmo", 4, 1, 4), ("videoinr", 1.5, 3, 4)]
)
def test_exported_network_runs_without_the_package(tmp_path, name, space, time, count, capsys):
    model, params = save_network(tmp_path / "weights", name)
    network = Predictor(name, model, params, tile=0)
    frames = np.random.default_rng(0).integers(0, 256, (network.window_size, 10, 12, 3), np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(len(frames))]
    for file, frame in zip(files, frames, strict=True):
        Image.fromarray(frame).save(file)
    file = tmp_path / "network.stablehlo"
    arguments = [
        file,
        "--checkpoint",
        tmp_path / "weights",
        "--size",
        "12x10",
        "--space",
        space,
        "--time",
        time,
    ]
    assert export.main([str(a) for a in arguments]) == 0
    assert "uint8" in capsys.readouterr().out

    # -I ignores PYTHONPATH and the working directory; the copy makes sure that nothing lies beside it, and an
    # installed package is made to fail.
    script = tmp_path / "alone" / "run.py"
    script.parent.mkdir()
    script.write_text("import sys\nsys.modules['stvsr_jax'] = None\n" + EXAMPLE.read_text())
    done = subprocess.run(
        [sys.executable, "-I", script, file, *files, tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = [np.asarray(Image.open(tmp_path / "out" / f"{n}.png")) for n in range(count)]
    times = np.arange(count) / time
    expected = network.predict(frames, list(times), space=space)
    assert np.ptp(expected.astype(int)) > 3
    assert np.abs(np.subtract(result, expected, dtype=int)).max() <= 1
    assert len(list((tmp_path / "out").iterdir())) == count


def test_programs_are_for_every_platform():
    model = models.build("zooming_slowmo", **SMALL)
    exported = export.export("zooming_slowmo", model, random_params(model), size=(8, 8), space=4, time=2)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.out_avals[0].shape == (7, 32, 32, 3)


def test_bad_requests_are_one_line(tmp_path, capsys):
    save_network(tmp_path / "weights", "zooming_slowmo")
    (tmp_path / "taken").touch()
    weights = ["--checkpoint", tmp_path / "weights", "--size", "8x8"]
    for arguments, message in [
        ([tmp_path / "taken", *weights], "exists; --overwrite"),
        ([tmp_path, *weights, "--overwrite"], "is no file"),
        (["", *weights, "--overwrite"], "is no file"),
        ([tmp_path / "none" / "x", *weights], "does not exist"),
        ([tmp_path / "x", *weights, "--space", 2], "space=2"),
        ([tmp_path / "x", *weights, "--time", 3], "time=3"),
        ([tmp_path / "x", *weights[:2], "--size", "99999x9"], "99999x9 that become 399996x36 are too large"),
        ([tmp_path / "x", "--checkpoint", tmp_path / "none", "--size", "8x8"], "no such file or folder"),
        ([tmp_path / "x", "--checkpoint", tmp_path / "weights", "--size", "0x8"], "size=0x8"),
    ]:
        assert export.main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error


def test_without_weights_those_that_fit_are_taken(tmp_path, shipped, capsys, monkeypatch):
    shipped("zooming_slowmo")
    seen = []

    def stop(name, model, params, **options):
        seen.append((name, model.features))
        raise ValueError("stopped")

    monkeypatch.setattr(export, "export", stop)
    for arguments, messages in [
        ([], ["weights: zooming_slowmo, from this package", "error: stopped"]),
        (["--model", "zooming_slowmo"], ["error: stopped"]),
        (["--space", "2"], ["error: this takes the weights videoinr, which are not in this package"]),
    ]:
        assert export.main([str(tmp_path / "x"), "--size", "8x8", *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == len(messages) and all(map(str.startswith, lines, messages)), lines
    assert seen == [("zooming_slowmo", 8)] * 2


def test_a_program_of_16_bits_made_beside_a_gpu_has_none_of_its_kernels():
    model = models.build(
        "zooming_slowmo", features=64, front_blocks=1, back_blocks=1, dtype=jax.numpy.bfloat16
    )
    params = random_params(model)
    device = AbstractDevice("NVIDIA H200", 132, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
        program = export.export(
            "zooming_slowmo", model, params, size=(8, 8), space=4, time=2, platforms=("cuda",)
        )
    # jax.export refuses kernels of its own accord.
    assert program.platforms == ("cuda",) and program.out_avals[0].shape == (7, 32, 32, 3)
