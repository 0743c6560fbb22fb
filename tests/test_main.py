"""The command line: what a wrong input prints, a killed run, and both real networks made small.

Flags can be parsed once in a process, so each command runs in one of its own; they run side by side.
"""

import contextlib
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.limits import HANG

ROOT = pathlib.Path(__file__).parents[1]
LINEAR = "tests/linear_config.py"


@pytest.fixture
def start(tmp_path):
    """Return a function that starts `python -m stvsr_jax.main` with arguments, in the project's folder."""
    variables = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONUNBUFFERED": "1",
    }
    started = []

    def start(*arguments, environment=(), **options):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "stvsr_jax.main", *map(str, arguments)],
                cwd=ROOT,
                env=variables | dict(environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                **options,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the workers, too
        process.wait()


def finish(process, timeout=HANG):
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
    """Of each kind one; tests/test_config_flag.py has the flags."""
    path = f"--config.data.path={clip_folder}"
    wrong = ("--config", "configs/videoinr.py", path, "--config.foo=1", "--workdir", tmp_path / "run")
    assert_one_line(start(*wrong), "--config has no key 'foo'")
    assert not (tmp_path / "run").exists()


def test_wrong_values_and_files_end_with_one_line(start, clip_folder, tmp_path):
    """Of each kind one; tests/test_train.py has the values."""
    (tmp_path / "file").write_text("")
    path = f"--config.data.path={clip_folder}"
    cases = [
        ((path, "--config.data.batch_size=0"), "batch_size=0 must be a positive multiple of the 1 devices"),
        ((f"--config.data.path={tmp_path}/nowhere",), "nowhere"),
        ((path, "--workdir", tmp_path / "file"), "file cannot be created: File exists"),
        ((path, "--mode=eval", "--workdir", tmp_path / "none"), "none holds no checkpoint"),
    ]
    commands = [
        start("--config", LINEAR, "--workdir", tmp_path / "run", *arguments) for arguments, _ in cases
    ]
    for command, (_, pattern) in zip(commands, cases, strict=True):
        assert_one_line(command, pattern)
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoint_is_named_and_the_one_before_is_taken(start, run, clip_folder):
    (metadata,) = (run / "checkpoints" / "4").glob("params/_METADATA")
    metadata.write_text(metadata.read_text()[:50])
    arguments = ("--config", LINEAR, f"--config.data.path={clip_folder}", "--workdir", run)
    assert_one_line(start(*arguments, "--mode=eval"), "weights of step 4 in .* cannot be read")
    code, out, err = finish(start(*arguments))
    assert code == 0, err
    assert re.search("training state of step 4 in .* cannot be read: .*damaged-4", err)
    assert "resuming after step 2" in out and "Traceback" not in err


def test_full_disk_ends_with_one_line_and_leaves_what_is_whole(start, clip_folder, tmp_path):
    """No file may be larger than 60 kB, as if the disk were full."""
    arguments = (
        *("--config", LINEAR, f"--config.data.path={clip_folder}", "--workdir", tmp_path / "run"),
        "--config.model.features=6144",
    )
    limited = start(*arguments)
    resource.prlimit(limited.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
    code, _, err = finish(limited)
    assert code == 2
    # Orbax's other writes may say that they failed too, before or after.
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert re.match(r"error: a checkpoint in .*run/checkpoints cannot be written: .*File too large", line), (
        err
    )
    assert line.endswith("there is no other checkpoint") and len(line) < 600
    code, out, err = finish(start(*arguments))  # there is space again
    assert code == 0 and "from scratch" in out, err
    assert steps_saved(tmp_path / "run") == [2, 4]


def steps_saved(workdir):
    """Return the steps of the finished checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def endless(clip_folder, run, *more):
    """Return the arguments of a run that ends with a signal."""
    return [
        *("--config", LINEAR, f"--config.data.path={clip_folder}", "--workdir", run),
        *("--config.train.log_every=50", "--config.train.checkpoint_every=20"),
        *("--config.train.eval_every=1000000", "--config.train.num_steps=1000000", *more),
    ]


def wait_for_checkpoint(process, run, *, after=0):
    """Wait until a checkpoint of a later step than `after` is finished."""
    deadline = time.monotonic() + HANG
    while max(steps_saved(run), default=0) <= after:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows_after(run, step):
    """Return the rows of metrics.csv of later steps."""
    rows = (run / "metrics.csv").read_text().splitlines()[1:]
    return [row for row in rows if int(row.split(",")[0]) > step]


def test_run_killed_at_any_instant_resumes_from_its_last_checkpoint_and_ends(start, clip_folder, tmp_path):
    run = tmp_path / "run"
    for delay in (0.0, 0.013):  # checkpoints are being written nearly all the time
        before = max(steps_saved(run), default=0)
        victim = start(*endless(clip_folder, run, "--config.train.checkpoint_every=3"))
        wait_for_checkpoint(victim, run, after=before + 3)
        time.sleep(delay)
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
    last = steps_saved(run)[-1]
    code, out, err = finish(start(*endless(clip_folder, run, f"--config.train.num_steps={last + 10}")))
    assert code == 0, err
    assert f"resuming after step {last}, writing to" in out
    assert f"step {last + 10}/{last + 10}  validation/psnr_y" in out
    assert steps_saved(run)[-1] == last + 10
    assert {int(row.split(",")[0]) for row in rows_after(run, last)} == {
        *range(last - last % 50 + 50, last + 10, 50),
        last + 10,
    }
    assert re.fullmatch(r"psnr_y [\d.]+  psnr_y_bicubic [\d.]+", out.splitlines()[-1])


@pytest.mark.parametrize(
    ("number", "num_workers", "name"), [(signal.SIGTERM, 1, "SIGTERM"), (signal.SIGINT, 0, "Ctrl-C")]
)
def test_signal_to_the_process_group_saves_and_ends(start, clip_folder, tmp_path, number, num_workers, name):
    run = tmp_path / "run"
    arguments = endless(clip_folder, run, f"--config.data.num_workers={num_workers}")
    process = start(*arguments)
    wait_for_checkpoint(process, run)
    os.killpg(process.pid, number)
    code, out, err = finish(process)
    assert code == 128 + number, err
    assert "Traceback" not in err
    line = err.splitlines()[0]  # Python may add that the killed workers left shared memory
    (step,) = re.findall(
        rf"stopped by {name} after step (\d+), which is saved in .*checkpoints; the same", line
    )
    assert steps_saved(run)[-1] == int(step)
    code, out, err = finish(start(*arguments, f"--config.train.num_steps={int(step) + 1}"))
    assert code == 0 and f"resuming after step {step}," in out, err


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def test_incomplete_description_of_the_processes_ends_with_one_line(start, clip_folder, tmp_path):
    """tests/test_distributed.py has what else can be wrong with it."""
    arguments = ("--config", LINEAR, f"--config.data.path={clip_folder}", "--workdir", tmp_path / "run")
    command = start(*arguments, environment={"NUM_PROCESSES": "2", "PROCESS_ID": "0"})
    assert_one_line(command, "NUM_PROCESSES, PROCESS_ID is set but not COORDINATOR_ADDRESS: .* all of them")


def of_two(address, index):
    """Return the variables of one process of two."""
    return {"COORDINATOR_ADDRESS": address, "NUM_PROCESSES": "2", "PROCESS_ID": str(index)}


def test_one_of_two_processes_that_fails_ends_at_once(start, clip_folder, tmp_path):
    """JAX would let it wait for the other one for five minutes."""
    arguments = endless(clip_folder, tmp_path / "run")
    address = f"localhost:{free_port()}"
    start(*arguments, environment=of_two(address, 0))
    broken = start(*arguments, "--config.loss.name=l3", environment=of_two(address, 1))
    code, _, err = finish(broken, timeout=120)
    assert code == 2 and "error: loss: 'l3' is not one of" in err


def test_two_processes_killed_and_resumed_equal_one(start, clip_folder, tmp_path):
    """Over gloo: SIGKILL after a checkpoint, resumed, SIGTERM, resumed to the end."""

    def start_two(*arguments):
        address = f"localhost:{free_port()}"
        return [start(*arguments, environment=of_two(address, index)) for index in range(2)]

    common = ("--config.train.log_every=10", "--config.train.eval_every=100000")
    run = tmp_path / "two"
    victims = start_two(*endless(clip_folder, run, *common))
    for victim in victims:
        wait_for_checkpoint(victim, run)
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    last = steps_saved(run)[-1]
    pair = start_two(*endless(clip_folder, run, *common))
    wait_for_checkpoint(pair[0], run, after=last)
    pair[1].send_signal(signal.SIGTERM)  # one is enough: both agree on a step
    ends = [finish(process) for process in pair]
    assert [code for code, _, _ in ends] == [143, 143], ends
    assert f"resuming after step {last}, " in ends[0][1] and "stopped by SIGTERM after step" in ends[0][2]
    last = steps_saved(run)[-1]
    target = last + 40
    again = [
        finish(p)
        for p in start_two(*endless(clip_folder, run, *common, f"--config.train.num_steps={target}"))
    ]
    assert [code for code, _, _ in again] == [0, 0], again
    assert f"resuming after step {last}, " in again[0][1]
    assert "step" not in again[1][1]  # only the first process reports
    whole = start(*endless(clip_folder, tmp_path / "one", *common, f"--config.train.num_steps={target}"))
    assert finish(whole)[0] == 0
    ours, theirs = ((tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("two", "one"))
    ours, theirs = (
        {tuple(row.split(",")[:2]): float(row.split(",")[2]) for row in rows if f"{target}," in row[:9]}
        for rows in (ours, theirs)
    )
    for name in ("train/loss", "train/grad_norm", "validation/psnr_y"):
        key = (str(target), name)
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4), name


@pytest.mark.heavy  # the gradient of a whole network to compile
@pytest.mark.parametrize("name", ["videoinr", "zooming_slowmo"])
def test_real_network_made_small_trains_and_is_scored(start, write_frames, tmp_path, name):
    write_frames(tmp_path / "clips" / "noise", 24, 40, 48)
    command = start(
        *("--config", f"configs/{name}.py:quick", "--workdir", tmp_path / "run"),
        *(f"--config.data.path={tmp_path / 'clips'}", "--config.data.cut_threshold=0"),
        *("--config.model.features=8", "--config.model.back_blocks=1", "--config.data.batch_size=2"),
        *("--config.data.recipe.window=3", "--config.data.recipe.lr_crop=8"),
        *("--config.data.validation_crop=8", "--config.data.validation_windows=1"),
        *("--config.train.num_steps=2", "--config.train.num_panels=0"),
    )
    code, out, err = finish(command)
    assert code == 0, err
    assert f"{name}, " in out and "from scratch" in out and "nan" not in out
    assert "step 2/2  train/grad_norm" in out and "step 2/2  validation/psnr_y" in out
    assert re.search(r"train/offset [\d.e-]+  train/offset_largest [\d.e-]+", out)
    assert steps_saved(tmp_path / "run") == [2]


@pytest.mark.heavy
def test_both_stages_of_videoinr_are_one_run(start, write_frames, tmp_path):
    """Two steps at x4 and one instant, then four at one of two scales and three instants; resumed in the second."""
    write_frames(tmp_path / "clips" / "noise", 24, 40, 48)
    arguments = (
        *("--config", "configs/videoinr.py:quick", "--workdir", tmp_path / "run"),
        *(f"--config.data.path={tmp_path / 'clips'}", "--config.data.cut_threshold=0"),
        *("--config.model.features=8", "--config.model.back_blocks=1", "--config.data.batch_size=2"),
        *("--config.data.recipe.lr_crop=8", "--config.data.recipe.stage2_step=2"),
        *("--config.data.recipe.num_scales=2", "--config.data.validation_crop=8"),
        *("--config.data.validation_windows=1", "--config.train.log_every=1"),
    )
    for steps, begin in ((4, "from scratch"), (6, "resuming after step 4")):
        code, out, err = finish(start(*arguments, f"--config.train.num_steps={steps}"))
        assert code == 0, err
        assert begin in out and "nan" not in out
    rows = [row.split(",") for row in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    losses = {int(step): float(value) for step, name, value in rows[1:] if name == "train/loss"}
    assert sorted(losses) == [1, 2, 3, 4, 5, 6] and all(0 < loss < 1 for loss in losses.values())
