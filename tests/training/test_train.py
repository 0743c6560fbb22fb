"""Whole runs: what they write, resuming, divergence, and what is refused before the first step."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from stvsr_jax import checkpoint, command_line
from stvsr_jax.locks import only_one
from stvsr_jax.runtime import distributed, sharding
from stvsr_jax.training import checkpoints, train, train_state
from stvsr_jax.weights import files
from tests.limits import HANG


@pytest.mark.parametrize(
    "field",
    ["num_steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "max_skipped_steps"]
    + ["micro_batches"],
)
def test_loop_numbers_must_be_positive(field):
    numbers = dict.fromkeys(train.LoopConfig.__dataclass_fields__, 1) | {field: 0}
    with pytest.raises(ValueError, match=f"{field}=0 must be at least 1"):
        train.LoopConfig(**numbers)


def poison(monkeypatch, wrong_batches):
    """Make some batches NaN, counted from 0 on the way to the device; return the list of all of them."""
    seen, to_global = [], sharding.to_global

    def to_global_poisoned(batch, mesh):
        if batch["target"].shape[0] == 2:  # of training; validation has one sample for each device
            if len(seen) in wrong_batches:
                batch = batch | {"frames": np.full_like(batch["frames"], np.nan)}
            seen.append(batch)
        return to_global(batch, mesh)

    monkeypatch.setattr(sharding, "to_global", to_global_poisoned)
    return seen


def test_a_directory_is_trained_in_once_at_a_time(config, tmp_path):
    workdir = tmp_path / "run"
    with only_one(workdir / ".lock", "trained in"):
        with pytest.raises(OSError, match=f"{workdir} is being trained in by another process"):
            train.train_and_evaluate(config, workdir)
        assert [path.name for path in workdir.iterdir()] == [".lock"]
    train.train_and_evaluate(config, workdir)
    config.train.num_steps = 5
    train.train_and_evaluate(config, workdir)  # the lock was given back
    assert checkpoint.load_for_inference(workdir).step == 5


def test_too_many_skipped_steps_in_a_row_stop_the_run_and_name_the_step(config, tmp_path, monkeypatch):
    config.train.num_steps = 8
    poison(monkeypatch, {1, 3, 4, 5, 6})
    with pytest.raises(FloatingPointError, match=r"step 5: the last 2 losses .* optimizer.learning_rate"):
        train.train_and_evaluate(config, tmp_path / "run")


def test_single_skipped_steps_are_survived_and_left_out_of_the_averages(
    config, tmp_path, monkeypatch, capsys
):
    config.train.update({"num_steps": 6, "log_every": 3})
    poison(monkeypatch, {1, 4})
    scores = train.train_and_evaluate(config, tmp_path / "run")
    assert np.isfinite(list(scores.values())).all()
    lines = [line for line in capsys.readouterr().out.splitlines() if "train/loss" in line]
    assert len(lines) == 2 and "nan" not in " ".join(lines)
    assert "train/skipped 0.3333 " in lines[0] and "train/skipped 0.3333 " in lines[1]


def test_run_reports_saves_and_scores(config, tmp_path, capsys):
    scores = train.train_and_evaluate(config, tmp_path / "run")
    assert set(scores) == {"psnr_y", "psnr_y_bicubic"}
    out = capsys.readouterr().out
    assert "1 clip, 24 frames, 1 scene: noise 32x24" in out
    assert "linear, 24 parameters, 1 x cpu, from scratch" in out
    assert f"step 4/4  validation/psnr_y {scores['psnr_y']:.4g}" in out
    assert "done: 4 steps in 0:00:0" in out and f"last scores: psnr_y {scores['psnr_y']:.3f}" in out
    assert f"best psnr_y of those kept: {scores['psnr_y']:.3f}, {tmp_path}/run/checkpoints/4" in out
    assert f"checkpoints of steps [2, 4] in {tmp_path}/run/checkpoints" in out
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == {"2", "4"}
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_run_learns(config, tmp_path):
    config.optimizer.learning_rate = 0.05
    config.train.update({"num_steps": 60, "log_every": 60, "eval_every": 60, "checkpoint_every": 60})
    untrained = config.copy_and_resolve_references()
    untrained.train.num_steps = 1
    before = train.train_and_evaluate(untrained, tmp_path / "untrained")
    after = train.train_and_evaluate(config, tmp_path / "trained")
    assert after["psnr_y"] > before["psnr_y"] + 3
    assert after["psnr_y_bicubic"] == before["psnr_y_bicubic"]


def test_resumed_run_is_bitwise_equal_with_any_number_of_workers(config, tmp_path, monkeypatch):
    """Four steps, then one, one and two; the number of workers changes in between."""
    config.optimizer.ema_decay = 0.9
    config.train.update({"eval_every": 1, "checkpoint_every": 1})
    seen = poison(monkeypatch, set())
    whole = train.train_and_evaluate(config, tmp_path / "whole")
    batches = list(seen)
    seen.clear()
    for config.train.num_steps, config.data.num_workers in ((1, 2), (2, 0), (4, 1)):
        parts = train.train_and_evaluate(config, tmp_path / "parts")
    assert whole == parts
    assert len(seen) == len(batches) == 4
    for ours, theirs in zip(seen, batches, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for weights in ("raw", "ema"):
        first, second = (
            checkpoint.load_for_inference(tmp_path / name, weights=weights) for name in ("whole", "parts")
        )
        assert first.step == second.step == 4
        jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("whole", "parts")]
    first, second = ({row for row in part if "seconds" not in row} for part in rows)
    assert first == second and "4,validation/psnr_y," in "".join(first)


def test_average_is_what_is_scored_and_loaded(config, tmp_path):
    config.optimizer.ema_decay = 0.9
    scores = train.train_and_evaluate(config, tmp_path / "run")
    assert train.evaluate_only(config, tmp_path / "run") == scores
    raw, average = (
        checkpoint.load_for_inference(tmp_path / "run", weights=weights).params for weights in ("raw", "ema")
    )
    assert not np.array_equal(raw["into"], average["into"])
    checkpoint.save_params(tmp_path / "raw", raw, checkpoint.ModelSpec("linear", {"features": 4}))
    assert train.evaluate_only(config, tmp_path / "raw") != scores


def test_diverged_run_goes_back_and_on_with_a_lower_rate(config, tmp_path, monkeypatch, capsys):
    """Batches 4 to 6 (the eighth step's divergence is known) are bad the first time only."""
    config.train.update({"num_steps": 8, "max_skipped_steps": 3, "max_rollbacks": 1, "keep_checkpoints": 9})
    seen = poison(monkeypatch, {4, 5, 6})
    train.train_and_evaluate(config, tmp_path / "run")
    out = capsys.readouterr().out
    assert "step 7: the last 3 losses or gradients were not finite" in out
    assert "batches 4 to 6, samples 8 to 13" in out and "back to step 4, " in out and "times 0.5" in out
    np.testing.assert_array_equal(seen[7]["target"], seen[4]["target"])  # the same data again
    rates = [
        float(row.split(",")[2])
        for row in (tmp_path / "run" / "metrics.csv").read_text().splitlines()
        if ",train/learning_rate," in row
    ]
    # 1e-4 + 9.9e-3 (1 + cos(pi n / 100)) / 2, from the fifth update on halved
    full = 1e-4 + 9.9e-3 * (1 + np.cos(np.pi * np.arange(8) / 100)) / 2
    np.testing.assert_allclose(rates, full * [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5], rtol=1e-5)
    with checkpoint.open_manager(tmp_path / "run" / "checkpoints") as manager:
        run = train.prepare(config)
        described = train_state.describe(run.model, run.optimizer, run.mesh, has_ema=False)
        state = checkpoints.restore_latest(manager, described, run.spec)
        assert (state.step, state.rollbacks, state.skipped) == (8, 1, 0)


def test_a_rollback_is_remembered_by_a_run_that_is_killed_right_after_it(config, tmp_path, monkeypatch):
    config.train.update({"num_steps": 8, "max_skipped_steps": 3, "max_rollbacks": 1, "keep_checkpoints": 9})
    with monkeypatch.context() as patch:
        seen = poison(patch, {4, 5, 6})
        killed = []

        def note(manager, step, count):
            noted(manager, step, count)
            killed.append((step, count))
            raise KeyboardInterrupt  # in place of a SIGKILL

        noted = checkpoints.note_rollback
        patch.setattr(checkpoints, "note_rollback", note)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, tmp_path / "run")
        assert killed == [(4, 1)] and len(seen) == 7
    poison(monkeypatch, {0, 1, 2, 3, 4})  # it diverges once more, and has no rollback left
    with pytest.raises(FloatingPointError, match="stopped after going back 1 times"):
        train.train_and_evaluate(config, tmp_path / "run")


def test_without_an_older_checkpoint_a_run_goes_on_with_a_lower_rate(config, tmp_path, monkeypatch, capsys):
    config.train.update({"num_steps": 8, "max_rollbacks": 1, "checkpoint_every": 8, "eval_every": 8})
    poison(monkeypatch, {2, 3, 4})
    train.train_and_evaluate(config, tmp_path / "run")
    assert (
        "no checkpoint is older; on from step 4, learning rate from now on times 0.5"
        in capsys.readouterr().out
    )
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"4", "8"}


def test_no_checkpoint_is_saved_while_steps_are_skipped(config, tmp_path, monkeypatch):
    config.train.update({"num_steps": 9, "checkpoint_every": 1, "max_skipped_steps": 9, "eval_every": 9})
    config.train.keep_checkpoints = 9
    poison(monkeypatch, {2, 3, 4})
    train.train_and_evaluate(config, tmp_path / "run")
    saved = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == {1, 2, 6, 7, 8, 9}  # the steps of batches 2 to 4 are 3 to 5


def test_a_run_that_was_stopped_before_its_scores_is_scored_when_it_goes_on(config, tmp_path, monkeypatch):
    train.train_and_evaluate(config, tmp_path / "whole")
    stop_at = {2}
    monkeypatch.setattr(distributed.StopRequest, "is_due", lambda self, step: step in stop_at)
    monkeypatch.setattr(distributed.StopRequest, "signal_number", 15, raising=False)
    with pytest.raises(command_line.StoppedError):
        train.train_and_evaluate(config, tmp_path / "run")
    stop_at.clear()
    train.train_and_evaluate(config, tmp_path / "run")
    rows = [
        {row for row in (tmp_path / name / "metrics.csv").read_text().splitlines() if ",validation/" in row}
        for name in ("whole", "run")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 4


COMPILES_LONG = """
import hashlib, importlib.util, sys
import jax
from stvsr_jax.training import train, validation
from stvsr_jax.runtime import compilation

def work():  # no Python runs in this thread, as in a compiler
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # about a minute
    print("idle", flush=True)

def prepare(self, *args, **kwargs):
    if sys.argv[3] == "compilation":
        work()
    return real(self, *args, **kwargs)

def score(*args):
    if sys.argv[3] == "evaluation":
        work()
    return scored(*args)

real, compilation.Program.prepare = compilation.Program.prepare, prepare
scored, validation.score = validation.score, score
spec = importlib.util.spec_from_file_location("linear_config", "tests/linear_config.py")
spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
config = module.get_config()
config.data.path = sys.argv[1]
train.train_and_evaluate(config, sys.argv[2])
"""


@pytest.mark.parametrize(("where", "step"), [("compilation", 0), ("evaluation", 2)])
def test_a_signal_while_it_compiles_or_is_scored_is_answered_at_once(
    config, clip_folder, tmp_path, where, step
):
    command = [sys.executable, "-c", COMPILES_LONG, str(clip_folder), str(tmp_path / "run"), where]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert any(line == "busy\n" for line in run.stdout)
    run.terminate()
    out, err = run.communicate(timeout=HANG)
    assert run.returncode == 143 and "idle" not in out, err
    assert f"stopped by SIGTERM after step {step}, which is saved in" in err
    assert checkpoint.load_for_inference(tmp_path / "run").step == step
    whole = train.train_and_evaluate(config, tmp_path / "whole")
    assert train.train_and_evaluate(config, tmp_path / "run") == whole


def test_run_that_diverges_again_and_again_stops(config, tmp_path, monkeypatch):
    config.train.update({"num_steps": 8, "max_rollbacks": 2})
    poison(monkeypatch, range(2, 100))
    with pytest.raises(FloatingPointError, match="batches 2 to 3, .*stopped after going back 2 times"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert checkpoint.load_for_inference(tmp_path / "run").step == 2


def test_stops_as_soon_as_the_divergence_is_known(config, tmp_path, monkeypatch):
    config.train.update({"num_steps": 50, "log_every": 50, "eval_every": 50, "checkpoint_every": 50})
    seen = poison(monkeypatch, range(5, 50))
    with pytest.raises(FloatingPointError, match="step 7: the last 2 losses .*no deformable convolutions"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert len(seen) == 8  # a step is always under way


def test_pictures_go_to_tensorboard(config, tmp_path):
    config.train.update({"num_steps": 1, "num_panels": 2})
    train.train_and_evaluate(config, tmp_path / "run")
    (events,) = (tmp_path / "run" / "tensorboard").glob("events.*")
    assert events.read_bytes().count(b"validation/0") == events.read_bytes().count(b"validation/1") == 1
    assert events.read_bytes().count(b"PNG") == 2


def test_run_that_had_ended_is_scored_again(config, tmp_path):
    first = train.train_and_evaluate(config, tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.csv").read_text()
    assert train.train_and_evaluate(config, tmp_path / "run") == first
    assert (tmp_path / "run" / "metrics.csv").read_text() == rows


def test_evaluate_only_scores_the_newest_checkpoint(config, tmp_path):
    scores = train.train_and_evaluate(config, tmp_path / "run")
    assert train.evaluate_only(config, tmp_path / "run") == scores
    config.init_from = str(tmp_path / "run")
    assert train.evaluate_only(config, tmp_path / "elsewhere") == scores
    assert not (tmp_path / "elsewhere").exists()


def test_evaluate_only_scores_the_run_and_not_where_it_began(config, tmp_path, capsys):
    config.train.num_steps = 1
    before = train.train_and_evaluate(config, tmp_path / "start")
    config.init_from = str(tmp_path / "start")
    config.optimizer.learning_rate = 0.05
    config.train.num_steps = 20
    after = train.train_and_evaluate(config, tmp_path / "run")
    assert after["psnr_y"] > before["psnr_y"] + 1
    capsys.readouterr()
    assert train.evaluate_only(config, tmp_path / "run") == after
    assert f"scoring {tmp_path}/run\n" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert train.evaluate_only(config, tmp_path / "empty") == before
    assert f"scoring {tmp_path}/start\n" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["checkpoint", "set"])
def test_init_from_starts_from_the_weights_at_step_zero(config, tmp_path, capsys, kind):
    spec = checkpoint.ModelSpec("linear", {"features": 4})
    params = {"into": np.full((3, 4), 0.25, np.float32), "out": np.full((4, 3), 0.5, np.float32)}
    if kind == "checkpoint":
        checkpoint.save_params(tmp_path / "weights", params, spec)
    else:
        content = files.encode(params, "float16")
        facts = {"steps": 100}
        description = files.describe(content, name="small", spec=spec, dtype="float16", facts=facts)
        files.write(files.layout_of(tmp_path / "weights", "small"), content, description, "", overwrite=False)
    config.init_from = str(tmp_path / "weights")
    config.train.num_steps = 1
    config.optimizer.update({"learning_rate": 1e-4, "final_learning_rate": 0.0})
    train.train_and_evaluate(config, tmp_path / "run")
    trained = checkpoint.load_for_inference(tmp_path / "run")
    assert trained.step == 1
    # Adam's first update has the size of the learning rate.
    for name, value in params.items():
        np.testing.assert_allclose(np.abs(trained.params[name] - value), 1e-4, rtol=1e-2)
    assert str(tmp_path / "weights") in capsys.readouterr().out


def set_path(config, path, value):
    *sections, key = path.split(".")
    for section in sections:
        config = config[section]
    with config.unlocked():
        config[key] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("extra", 1, r"config has unknown keys \['extra'\]"),
        ("train.extra", 1, r"config.train has unknown keys \['extra'\]"),
        ("optimizer.warmup", 1, r"config.optimizer has unknown keys \['warmup'\]"),
        ("loss.weight", 1, r"config.loss has unknown keys \['weight'\]"),
        ("data.shuffle", 1, r"config.data has unknown keys \['shuffle'\]"),
        ("data.recipe.frames", 7, r"data.recipe has unknown keys \['frames'\].*zooming_slowmo"),
        ("model.depth", 3, r"model 'linear' has no field \['depth'\]"),
        ("model.name", "edvr", "model 'edvr' is not one of"),
        ("dtype", "float16", "config.dtype='float16' is not one of"),
        ("loss.name", "l2", "'l2' is not one of"),
        ("train.log_every", 0, "log_every=0"),
        ("optimizer.cycle_steps", 0, "cycle_steps=0"),
        ("optimizer.clip_norm", -1.0, "clip_norm=-1.0 must be at least 0"),
        ("optimizer.ema_decay", 1.0, "ema_decay=1.0 must be from 0 to below 1"),
        ("train.max_rollbacks", -1, "max_rollbacks=-1 must be at least 0"),
        ("train.rollback_rate", 0.0, "rollback_rate=0.0 must be above 0"),
        ("train.micro_batches", 4, "batch_size=2 .* the 4 micro batches"),
        ("mesh.fsdp", 3, "fsdp=3 must be a divisor of the 1 devices"),
        ("mesh.data", 1, r"config.mesh has unknown keys \['data'\]"),
        ("data.validation_crop", 8, "32x24 pixels; validation_crop=8 needs at least 32x32"),
        ("data.validation_crop", 6, "validation_crop=6 must be a positive multiple of 4"),
        ("seed", -1, "seed=-1"),
        ("data.batch_size", 0, "batch_size=0"),
        ("data.num_workers", -1, "num_workers=-1"),
        ("data.recipe.name", "edvr", "'edvr'"),
        ("data.recipe.window", 4, "window=4 must be odd"),
        ("data.recipe.window", 25, "windows need 25 frames"),
        ("data.recipe.lr_crop", 8, "noise is 32x24 pixels; crops .* at least 32x32"),
        ("data.recipe.lr_crop", 6, "lr_crop=6 must be a positive multiple of 4"),
        ("data.split", "random", "split='random' is not one of"),
        ("data.validation_fraction", 1.5, "fraction=1.5"),
        ("data.validation_windows", 0, "validation_windows=0"),
        ("data.path", "", "path is empty"),
    ],
)
def test_prepare_names_what_is_wrong(config, path, value, message):
    set_path(config, path, value)
    with pytest.raises(ValueError, match=message):
        train.prepare(config)


@pytest.mark.parametrize("path", ["seed", "train.log_every", "data.recipe.name"])
def test_prepare_names_what_is_missing(config, path):
    *sections, key = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    del section[key]
    with pytest.raises(ValueError, match=f"{key}|None is not known"):
        train.prepare(config)


def test_prepare_names_a_missing_path(config, tmp_path):
    config.data.path = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train.prepare(config)


def test_prepare_names_a_damaged_video(config, tmp_path):
    config.data.path = str(tmp_path / "damaged.mp4")
    (tmp_path / "damaged.mp4").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(ValueError, match="damaged.mp4 cannot be read as a video"):
        train.prepare(config)


def test_prepare_writes_nothing(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    train.prepare(config)
    scans = pathlib.Path(config.data.cache_dir)
    assert sorted(p for p in tmp_path.rglob("*") if scans not in (p, *p.parents)) == before


def test_network_that_does_not_fit_the_samples_is_refused(config, tmp_path):
    config.data.recipe.scale = 2
    with pytest.raises(ValueError, match="Zooming Slow-Mo makes 3 frames of 16x16 .*, not 3 of 8x8"):
        train.train_and_evaluate(config, tmp_path / "run")
