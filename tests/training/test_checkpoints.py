"""The checkpoints of a run: round trips, which ones stay, averages, going back, damage, writes that fail."""

import os
import re
import shutil

import jax
import numpy as np
import pytest

from stvsr_jax import checkpoint, models
from stvsr_jax.runtime import sharding
from stvsr_jax.training import checkpoints, optim, train, train_state

SPEC = checkpoint.ModelSpec("linear", {"features": 4})


OPTIMIZER = optim.make_optimizer(optim.OptimizerConfig(1e-2, 1e-3, 10, 0.9, 0.99))


def make_state(params, step=7, has_ema=True):
    state = train_state.create_on(sharding.make_mesh(), params, OPTIMIZER, has_ema=has_ema)
    state = state.replace(step=state.step + step, skipped=state.skipped + 3, rollbacks=state.rollbacks + 1)
    return state.replace(ema=jax.tree.map(lambda x: 2 * x, state.ema)) if has_ema else state


def describe(has_ema=True):
    return train_state.describe(models.build("linear"), OPTIMIZER, sharding.make_mesh(), has_ema=has_ema)


def save_all(directory, states, *, scores=(), **options):
    """Save states with their scores of `psnr_y`, None for none."""
    with checkpoint.open_manager(directory, **options) as manager:
        for state, score in zip(states, scores or [None] * len(states), strict=True):
            checkpoints.save(manager, state, SPEC, scores=None if score is None else {"psnr_y": score})
        checkpoints.finish(manager)


@pytest.mark.parametrize("has_ema", [True, False])
def test_state_survives_a_round_trip(linear_config, params, tmp_path, has_ema):
    state = make_state(params, has_ema=has_ema)
    save_all(tmp_path, [state])
    with checkpoint.open_manager(tmp_path) as manager:
        assert manager.latest_step() == 7
        restored = checkpoints.restore_latest(manager, describe(has_ema), SPEC)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_average_may_be_turned_on_and_off(linear_config, params, tmp_path):
    save_all(tmp_path / "without", [make_state(params, has_ema=False)])
    save_all(tmp_path / "with", [make_state(params, has_ema=True)])
    with checkpoint.open_manager(tmp_path / "without") as manager:
        restored = checkpoints.restore_latest(manager, describe(True), SPEC)
    jax.tree.map(np.testing.assert_array_equal, restored.ema, params)
    with checkpoint.open_manager(tmp_path / "with") as manager:
        assert checkpoints.restore_latest(manager, describe(False), SPEC).ema is None


def test_inference_takes_the_average_and_the_raw_weights_on_request(linear_config, params, tmp_path):
    save_all(tmp_path / "with", [make_state(params)])
    save_all(tmp_path / "without", [make_state(params, has_ema=False)])
    average = checkpoint.load_for_inference(tmp_path / "with").params
    jax.tree.map(np.testing.assert_array_equal, average, jax.tree.map(lambda x: 2 * x, params))
    for name, weights in (("with", "raw"), ("without", "raw"), ("without", "ema")):
        loaded = checkpoint.load_for_inference(tmp_path / name, weights=weights).params
        jax.tree.map(np.testing.assert_array_equal, loaded, params)
    with pytest.raises(ValueError, match="weights='best' is not one of"):
        checkpoint.load_for_inference(tmp_path / "with", weights="best")


def test_newest_best_and_every_nth_are_kept(linear_config, params, tmp_path):
    states = [make_state(params, step=step) for step in range(1, 10)]
    scores = [20.0, 26.0, None, 25.0, float("nan"), 23.0, 22.0, None, 21.0]
    save_all(tmp_path, states, scores=scores, keep=2, keep_every=4)
    with checkpoint.open_manager(tmp_path, keep=2, keep_every=4) as manager:
        assert sorted(manager.all_steps()) == [2, 4, 8, 9]
        assert checkpoints.best(manager) == (2, {"psnr_y": 26.0})
        # The best of before is known after a restart, and gives way to a better one.
        checkpoints.save(manager, make_state(params, step=10), SPEC, scores={"psnr_y": 27.0})
        checkpoints.finish(manager)
        assert sorted(manager.all_steps()) == [4, 8, 9, 10]
        assert checkpoints.best(manager) == (10, {"psnr_y": 27.0})


def test_without_scores_there_is_no_best(linear_config, params, tmp_path):
    save_all(tmp_path, [make_state(params, step=step) for step in (1, 2)])
    with checkpoint.open_manager(tmp_path) as manager:
        assert checkpoints.best(manager) is None


def test_going_back_deletes_what_is_later(linear_config, params, tmp_path):
    save_all(tmp_path, [make_state(params, step=step) for step in (2, 4, 6)])
    with checkpoint.open_manager(tmp_path) as manager:
        state = checkpoints.restore_latest(manager, describe(), SPEC, last=5)
        assert (state.step, state.rollbacks) == (4, 1)
        checkpoints.note_rollback(manager, 4, 3)
        assert sorted(manager.all_steps()) == [2, 4]
    with checkpoint.open_manager(tmp_path) as manager:  # of the next process
        for _ in range(2):
            state = checkpoints.restore_latest(manager, describe(), SPEC)
            assert (state.step, state.rollbacks, state.rollbacks.dtype) == (4, 3, np.int32)
        assert checkpoints.restore_latest(manager, describe(), SPEC, last=3).rollbacks == 1
        with pytest.raises(ValueError, match="no checkpoint of step 1 or before"):
            checkpoints.restore_latest(manager, describe(), SPEC, last=1)


def test_only_the_newest_are_kept(config, tmp_path):
    config.train.update({"checkpoint_every": 1, "eval_every": 4, "keep_checkpoints": 2})
    train.train_and_evaluate(config, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"3", "4"}


@pytest.mark.parametrize("removed", [None, "metrics", "params", "_CHECKPOINT_METADATA", "model"])
def test_surplus_of_a_run_that_was_killed_is_removed(linear_config, params, tmp_path, removed):
    """It was killed after its last save, before the removal of what this replaces, or amid it: of the item `removed`."""
    states = [make_state(params, step=step) for step in (1, 2, 3, 4)]
    save_all(tmp_path, states, scores=[20.0, 26.0, 21.0, None])
    for step in (1, 3) if removed else ():
        item = tmp_path / str(step) / removed
        shutil.rmtree(item) if item.is_dir() else item.unlink()
    with checkpoint.open_manager(tmp_path, keep=1) as manager:
        checkpoints.remove_surplus(manager, keep=1, keep_every=0)
        assert sorted(manager.all_steps()) == [2, 4]
        assert checkpoints.best(manager) == (2, {"psnr_y": 26.0})
    assert {path.name for path in tmp_path.iterdir()} == {"2", "4"}


@pytest.mark.parametrize(("damaged", "kept"), [(None, {"4"}), ("4", {"4", "damaged-4"})])
def test_run_that_starts_again_removes_surplus_once_it_has_read_its_state(config, tmp_path, damaged, kept):
    """Also a run that has ended. One that is damaged gives way to the one before, which may have been surplus."""
    config.train.update({"checkpoint_every": 1, "eval_every": 4, "keep_checkpoints": 4})
    train.train_and_evaluate(config, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"1", "2", "3", "4"}
    whole = checkpoint.load_for_inference(tmp_path / "run").params
    if damaged:
        shutil.rmtree(checkpoints / damaged / "params" / "d")
    config.train.keep_checkpoints = 1
    train.train_and_evaluate(config, tmp_path / "run")
    assert {path.name for path in checkpoints.iterdir()} == kept
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_for_inference(tmp_path / "run").params, whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "No space left on device " + "x" * 300 + " at the end\nmore",
            r"No space left.* \.\.\. .*at the end",
        ),
        # A reason that TensorStore gives amid its settings.
        (
            "Error writing " + "x" * 300 + "[os_error_code='27'] " + "y" * 300,
            r"Error writing x+ \.\.\. File too large",
        ),
    ],
)
def test_write_that_fails_is_one_line_that_names_what_is_whole(params, tmp_path, monkeypatch, text, message):
    """A disk that is really full: tests/test_main.py."""
    with checkpoint.open_manager(tmp_path) as manager:
        checkpoints.save(manager, make_state(params, step=1), SPEC)
        checkpoints.finish(manager)

        def fail(*args, **kwargs):
            raise ValueError(text)

        monkeypatch.setattr(manager, "save", fail)
        message = rf"in .* cannot be written: {message}; .*steps \[1\] are whole"
        with pytest.raises(OSError, match=message) as error:
            checkpoints.save(manager, make_state(params, step=2), SPEC)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("item", "is_inferred"),
    [
        ("params/d/*", True),
        ("params/_METADATA", True),
        ("progress/d/*", False),
        ("model/metadata", True),
    ],
)
def test_damaged_checkpoint_gives_way_to_the_one_before(run, config, item, is_inferred, caplog):
    """`is_inferred`: whether inference needs the item too."""
    whole = checkpoint.load_for_inference(run).params
    (file,) = (run / "checkpoints" / "4").glob(item)
    os.truncate(file, file.stat().st_size // 2)
    if is_inferred:
        with pytest.raises(ValueError, match="of step 4 in .* cannot be read"):
            checkpoint.load_for_inference(run)
    else:
        assert checkpoint.load_for_inference(run).step == 4
    train.train_and_evaluate(config, run)
    (warning,) = [r.getMessage() for r in caplog.records if "damaged-4" in r.getMessage()]
    assert re.search(r"of step 4 in .* cannot be read: .*; it is kept as .*damaged-4", warning)
    assert len(warning) < 900 and "\n" not in warning
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"2", "4", "damaged-4"}
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_for_inference(run).params, whole)


@pytest.mark.parametrize(
    "error", [MemoryError("32 GB"), RuntimeError("can't start new thread"), OSError(5, "Input/output error")]
)
def test_a_checkpoint_that_cannot_be_read_for_now_stays(run, config, monkeypatch, error):
    manager = checkpoint.ocp.CheckpointManager

    def fail(self, step, args):
        raise error

    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(manager, "restore", fail)
        with pytest.raises(ValueError, match="step 4 in .* cannot be read"):
            train.train_and_evaluate(config, run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
    config.train.num_steps = 5
    train.train_and_evaluate(config, run)
    assert checkpoint.load_for_inference(run).step == 5


@pytest.mark.parametrize("damage", ["delete", "zero"])
def test_damage_of_any_file_of_the_state_is_seen(linear_config, params, tmp_path, damage):
    save_all(tmp_path / "whole", [make_state(params, step=step) for step in (1, 2)])
    root = tmp_path / "whole" / "2"
    files = [f.relative_to(root) for item in ("params", "progress") for f in (root / item).glob("d/*")]
    files += ["params/manifest.ocdbt", "progress/_METADATA"]
    for number, name in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", copy)
        file = copy / "2" / name
        if damage == "delete":
            file.unlink()
        else:
            file.write_bytes(bytes(file.stat().st_size))
        with checkpoint.open_manager(copy) as manager:
            state = checkpoints.restore_latest(manager, describe(), SPEC)
        assert state.step == 1 and (copy / "damaged-2").is_dir()


def test_nothing_but_damaged_checkpoints_is_an_error_that_names_the_remedy(run, config):
    shutil.rmtree(run / "checkpoints" / "2")
    (file,) = (run / "checkpoints" / "4").glob("params/d/*")
    file.unlink()
    with pytest.raises(ValueError, match="training state of step 4 .*remove this step's directory") as error:
        train.train_and_evaluate(config, run)
    assert len(str(error.value)) < 800 and "\n" not in str(error.value)


def test_run_goes_on_from_the_checkpoint_before_a_removed_one(run, config):
    whole = checkpoint.load_for_inference(run).params
    shutil.rmtree(run / "checkpoints" / "4")
    train.train_and_evaluate(config, run)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_for_inference(run).params, whole)
