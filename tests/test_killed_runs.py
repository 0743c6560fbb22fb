"""A run that is killed again and again, at random moments, ends as one that nobody disturbed, byte for byte."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from stvsr_jax import checkpoint
from tests.limits import HANG

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 24


def start(clips, workdir):
    arguments = [
        *("--config", "tests/linear_config.py", f"--config.data.path={clips}", "--workdir", workdir),
        *(f"--config.train.num_steps={STEPS}", "--config.train.checkpoint_every=3"),
        *(
            "--config.train.eval_every=8",
            "--config.optimizer.ema_decay=0.9",
            "--config.train.keep_checkpoints=2",
        ),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "stvsr_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(clips.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 0, err
    assert "damaged" not in err


def read(workdir):
    """Return all that a run leaves but its times: numbers, names of checkpoints, and the arrays of the last."""
    rows = [r for r in (workdir / "metrics.csv").read_text().splitlines() if ",train/step_seconds," not in r]
    names = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    items = {name: ocp.args.StandardRestore() for name in ("params", "ema", "progress")}
    with checkpoint.open_manager(workdir / "checkpoints") as manager:
        state = manager.restore(STEPS, args=ocp.args.Composite(**items))
    leaves = {}
    for name in items:
        for path, leaf in jax.tree_util.tree_leaves_with_path(state[name]):
            leaves[name + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return rows, names, leaves


def wait_until_it_trains(process):
    """Wait for the line that a run prints when its state is there, or for its end."""
    while (line := process.stdout.readline()) and "writing to" not in line:
        pass


@pytest.mark.parametrize("count", [2, pytest.param(100, marks=pytest.mark.heavy)])
def test_a_run_that_is_killed_ends_as_one_that_is_not(clip_folder, tmp_path, count):
    began = time.monotonic()
    undisturbed = start(clip_folder, tmp_path / "undisturbed")
    wait_until_it_trains(undisturbed)
    start_up = time.monotonic() - began
    finish(undisturbed)
    training = time.monotonic() - began - start_up
    expected = read(tmp_path / "undisturbed")
    assert len(expected[0]) > 4 * STEPS and len(expected[2]) > 8

    moments, killed, number = random.Random(count), [], 0
    while len(killed) < count:
        workdir = tmp_path / f"killed{number}"
        number += 1
        is_running = True
        while is_running and len(killed) < count:
            process = start(clip_folder, workdir)
            trains = moments.random() < 0.8  # else it is killed while it starts
            if trains:
                wait_until_it_trains(process)
            try:
                process.wait(timeout=moments.random() * (training if trains else start_up))
                is_running, training = False, 0.9 * training  # the machine is faster than it was, or slower
                assert process.returncode == 0, process.stderr.read()
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed.append(trains)
                training *= 1.02
            process.communicate()
        if is_running:
            finish(start(clip_folder, workdir))
        found = read(workdir)
        assert found[0] == expected[0]
        assert found[1] == expected[1]
        assert found[2] == expected[2]
        print(
            f"{sum(killed)} kills while it trained, {len(killed) - sum(killed)} while it started, {number} runs"
        )
