"""Curves are read exactly, drawn where they belong, and a wrong file is named with its line."""

import builtins
import os

import numpy as np
import pytest
from PIL import Image

from stvsr_jax import plot

ROWS = "step,name,value\n1,train/loss,0.5\n1,train/psnr,20\n2,train/loss,0.25\n2,validation/psnr,21.5\n"


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "metrics.csv").write_text(ROWS)
    return tmp_path


def test_curves_are_read_by_name_and_step(run_dir):
    assert plot.read_metrics(run_dir / "metrics.csv") == {
        "train/loss": {1: 0.5, 2: 0.25},
        "train/psnr": {1: 20.0},
        "validation/psnr": {2: 21.5},
    }


def test_steps_that_were_made_again_replace_the_first(run_dir):
    (run_dir / "metrics.csv").write_text(ROWS + "3,train/loss,9\n2,train/loss,0.125\n")
    assert plot.read_metrics(run_dir / "metrics.csv")["train/loss"] == {1: 0.5, 2: 0.125, 3: 9.0}


def test_line_being_written_is_left_out(run_dir):
    (run_dir / "metrics.csv").write_text(ROWS + "3,train/lo")
    assert plot.read_metrics(run_dir / "metrics.csv")["train/loss"] == {1: 0.5, 2: 0.25}


def test_command_draws_a_picture_with_a_panel_per_metric(run_dir, capsys):
    pytest.importorskip("matplotlib")
    # A baseline has the panel of its metric, and what is not finite is a gap.
    (run_dir / "metrics.csv").write_text(ROWS + "3,train/loss,nan\n2,validation/psnr_bicubic,20\n")
    assert plot.main([str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir / 'curves.png'}: 4 curves up to step 3\n"
    two = Image.open(run_dir / "curves.png")
    pixels = np.asarray(two.convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) > 80).sum() > 200  # coloured lines
    (run_dir / "metrics.csv").write_text("step,name,value\n1,train/loss,0.5\n2,train/loss,0.1\n")
    assert plot.main([str(run_dir), "--out", str(run_dir / "one.png")]) == 0
    one = Image.open(run_dir / "one.png")
    assert two.width == 2 * one.width and two.height == one.height
    assert sorted(path.name for path in run_dir.iterdir()) == ["curves.png", "metrics.csv", "one.png"]


def test_runs_are_compared_in_the_panels_asked_for(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    runs = [tmp_path / name for name in ("a", "b")]
    for run in runs:
        run.mkdir()
        (run / "metrics.csv").write_text(ROWS)
    assert list(plot.read_runs(runs, ["psnr"])) == [
        f"{run}/{split}/psnr" for run in "ab" for split in ("train", "validation")
    ]
    arguments = [str(run) for run in runs]
    assert plot.main([*arguments, "--metrics", "psnr", "loss", "--out", str(tmp_path / "x.png")]) == 0
    assert "6 curves up to step 2" in capsys.readouterr().out
    assert plot.main([*arguments, "--metrics", "pnsr"]) == 2
    assert "metric 'pnsr' is not one of loss, psnr" in capsys.readouterr().err
    assert plot.main([arguments[0], arguments[0]]) == 2
    assert "the runs a, a need different names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "metrics.csv is empty"),
        ("step,name,value\n", "metrics.csv has no rows yet"),
        ("a,b\n", "line 1: the header is 'a,b', it must be 'step,name,value'"),
        (ROWS + "x,train/loss,1\n", "line 6: 'x,train/loss,1' is no step"),
        (ROWS + "3,train/loss\n", "line 6: '3,train/loss' is no step"),
        (ROWS + "3,train/loss,high\n", "line 6: '3,train/loss,high' is no step"),
        (ROWS + "\n", "line 6: '' is no step"),
        (b"\xff\xfe\x00", "metrics.csv is no text file"),
    ],
)
def test_wrong_files_are_named(run_dir, capsys, text, message):
    (run_dir / "metrics.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert plot.main([str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_out_must_be_a_picture_file(run_dir, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")  # as little to be replaced as a device is
    for out, message in (
        ("", "is no file"),
        (tmp_path, "is no file"),
        (tmp_path / "pipe.png", "is no file"),
        (tmp_path / "curves.pdf", "must end in .png"),
        (tmp_path / "nowhere" / "a.png", "No such file"),
    ):
        assert plot.main([str(run_dir), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert (tmp_path / "pipe.png").is_fifo()


def test_missing_run_is_named(tmp_path, capsys):
    assert plot.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere/metrics.csv does not exist; name the directory" in capsys.readouterr().err


def test_missing_matplotlib_is_named(run_dir, capsys, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert plot.main([str(run_dir)]) == 2
    assert "pip install 'stvsr-jax[plot]'" in capsys.readouterr().err
