"""The command line: what a wrong input prints, a killed run, and both real networks made small.

Flags can be parsed once in a process, so each command runs in one of its own; they run side by side.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LINEAR = "tests/linear_config.py"


@pytest.fixture
def start(tmp_path):
    """Return a function that starts `python -m stvsr_jax.main` with arguments, in the project's folder."""
    # Compiling is what takes the time of the real networks.
    environment = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONUNBUFFERED": "1",
    }
    started = []

    def start(*arguments):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "stvsr_jax.main", *map(str, arguments)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def finish(process, timeout=240):
    """Return (exit code, stdout, stderr)."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def assert_one_line(process, pattern):
    code, out, err = finish(process)
    assert code == 2, err
    assert "Traceback" not in out + err
    assert len(err.splitlines()) == 1 and re.search(pattern, err), err
    assert err.startswith("error: ")


def test_wrong_flags_end_with_one_line(start, clip_folder, tmp_path):
    own = tmp_path / "own.py"
    own.write_text((ROOT / LINEAR).read_text().replace('"seed": 0,', '"seed": 0, "extra": 1,'))
    path = f"--config.data.path={clip_folder}"
    cases = [
        ((LINEAR, path, "--config.foo=1"), "--config has no key 'foo'"),
        ((LINEAR, path, "--config.data.batchsize=1"), "no key 'batchsize' .*mean \"batch_size\""),
        ((LINEAR, path, "--config.data.batch_size=many"), "config.data.batch_size=many"),
        ((own, path), r"config has unknown keys \['extra'\]"),
        (("configs/videoinr.py:slow",), r"variant 'slow' is not one of \('', 'quick'\)"),
        (("nowhere.py",), "No such file or directory: 'nowhere.py'"),
        ((LINEAR, path, "--steps=3"), "Unknown command line flag 'steps'"),
    ]
    commands = [start("--config", *arguments, "--workdir", tmp_path / "run") for arguments, _ in cases]
    for command, (_, pattern) in zip(commands, cases, strict=True):
        assert_one_line(command, pattern)
    assert not (tmp_path / "run").exists()


def test_wrong_values_and_files_end_with_one_line(start, clip_folder, tmp_path):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video" * 500)
    (tmp_path / "file").write_text("")
    path = f"--config.data.path={clip_folder}"
    cases = [
        ((path, "--config.model.name=edvr"), "model 'edvr' is not one of"),
        ((f"--config.data.path={tmp_path}/nowhere",), "nowhere"),
        ((f"--config.data.path={damaged}",), "damaged.mp4 cannot be read as a video"),
        ((path, "--config.data.recipe.lr_crop=8"), "32x24 pixels; crops .* at least 32x32"),
        ((path, "--config.data.recipe.window=25"), "windows need 25 frames"),
        ((path, "--workdir", tmp_path / "file"), "file/checkpoints cannot be created"),
        ((path, "--mode=eval", "--workdir", tmp_path / "none"), "none holds no checkpoint"),
    ]
    commands = [
        start("--config", LINEAR, "--workdir", tmp_path / "run", *arguments) for arguments, _ in cases
    ]
    for command, (_, pattern) in zip(commands, cases, strict=True):
        assert_one_line(command, pattern)
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoint_ends_with_one_line(start, clip_folder, tmp_path):
    arguments = ("--config", LINEAR, f"--config.data.path={clip_folder}", "--workdir", tmp_path / "run")
    assert finish(start(*arguments))[0] == 0
    (metadata,) = (tmp_path / "run" / "checkpoints" / "4").glob("params/_METADATA")
    metadata.write_text(metadata.read_text()[:50])
    commands = [start(*arguments), start(*arguments, "--mode=eval")]
    assert_one_line(commands[0], "training state of step 4 in .* cannot be read")
    assert_one_line(commands[1], "weights of step 4 in .* cannot be read")


def test_batch_that_does_not_divide_ends_with_one_line(start, clip_folder, tmp_path):
    arguments = ("--config", LINEAR, f"--config.data.path={clip_folder}", "--workdir", tmp_path / "run")
    command = start(*arguments, "--config.data.batch_size=0")
    assert_one_line(command, "batch_size=0 must be a positive multiple of the 1 devices")


def steps_saved(workdir):
    """Return the steps of the finished checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def test_killed_run_resumes_from_its_last_checkpoint_and_ends(start, clip_folder, tmp_path):
    run = tmp_path / "run"
    arguments = [
        *("--config", LINEAR, f"--config.data.path={clip_folder}", "--workdir", run),
        *("--config.train.log_every=50", "--config.train.checkpoint_every=20"),
        "--config.train.eval_every=1000000",
    ]
    victim = start(*arguments, "--config.train.num_steps=1000000")
    deadline = time.monotonic() + 60
    while len(steps_saved(run)) < 2 and time.monotonic() < deadline:
        assert victim.poll() is None, victim.stderr.read()
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    last = steps_saved(run)[-1]
    code, out, err = finish(start(*arguments, f"--config.train.num_steps={last + 10}"))
    assert code == 0, err
    assert f"resuming after step {last}, writing to" in out
    assert f"step {last + 10}/{last + 10}  validation/psnr_y" in out
    assert steps_saved(run)[-1] == last + 10
    assert re.fullmatch(r"psnr_y [\d.]+  psnr_y_bicubic [\d.]+", out.splitlines()[-1])


@pytest.mark.parametrize("name", ["videoinr", pytest.param("zooming_slowmo", marks=pytest.mark.heavy)])
def test_real_network_made_small_trains_and_is_scored(start, write_frames, tmp_path, name):
    write_frames(tmp_path / "clips" / "noise", 24, 40, 48)
    command = start(
        *("--config", f"configs/{name}.py:quick", "--workdir", tmp_path / "run"),
        *(f"--config.data.path={tmp_path / 'clips'}", "--config.data.cut_threshold=0"),
        *("--config.model.features=8", "--config.model.back_blocks=1", "--config.data.batch_size=2"),
        *("--config.data.recipe.window=3", "--config.data.recipe.lr_crop=8"),
        *("--config.data.validation_crop=8", "--config.data.validation_windows=1"),
        "--config.train.num_steps=2",
    )
    code, out, err = finish(command)
    assert code == 0, err
    assert f"{name}, " in out and "from scratch" in out and "nan" not in out
    assert "step 2/2  train/grad_norm" in out and "step 2/2  validation/psnr_y" in out
    assert steps_saved(tmp_path / "run") == [2]
