"""Round trips, what is refused and how it is named, and damaged checkpoints."""

import os
import re

import jax
import numpy as np
import optax
import pytest

from stvsr_jax import checkpoint, models, sharding, train, train_state

SPEC = checkpoint.ModelSpec("linear", {"features": 4})


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {"into": rng.normal(size=(3, 4)).astype("f"), "out": rng.normal(size=(4, 3)).astype("f")}


@pytest.fixture
def run(config, tmp_path):
    """Return the directory of a run of four steps with checkpoints of steps 2 and 4."""
    train.train_and_evaluate(config, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def weights(linear_config, params, tmp_path):
    """Return a directory of weights alone."""
    checkpoint.save_params(tmp_path / "weights", params, SPEC)
    return tmp_path / "weights"


def replicated():
    return sharding.replicated(sharding.make_mesh())


def test_state_and_data_position_survive_a_round_trip(config, tmp_path):
    prepared = train.prepare(config)
    model, optimizer = prepared.model, optax.adam(0.1)
    state = train_state.create(model, optimizer, jax.random.key(0))
    state = state.replace(step=state.step + 7, skipped=state.skipped + 3)
    iterator = iter(prepared.datasets.train)
    for _ in range(3):
        next(iterator)
    with checkpoint.open_manager(tmp_path / "saved", keep=2) as manager:
        checkpoint.save(manager, state, iterator, SPEC)
        manager.wait_until_finished()
        following = next(iterator)
    empty = train_state.create(model, optimizer, jax.random.key(1))
    fresh = iter(prepared.datasets.train)
    with checkpoint.open_manager(tmp_path / "saved", keep=2) as manager:
        assert manager.latest_step() == 7
        restored = checkpoint.restore_latest(manager, empty, fresh, SPEC)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    jax.tree.map(np.testing.assert_array_equal, next(fresh), following)


def test_only_the_newest_are_kept(config, tmp_path):
    config.train.update({"checkpoint_every": 1, "keep_checkpoints": 2})
    train.train_and_evaluate(config, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"3", "4"}


def test_load_for_inference_finds_a_run_its_checkpoints_and_weights(run, weights, params):
    for directory in (run, run / "checkpoints", str(run)):
        restored = checkpoint.load_for_inference(directory)
        assert (restored.model_name, restored.step) == ("linear", 4)
        assert restored.model_kwargs == {"features": 4}
    assert checkpoint.load_for_inference(run, step=2).step == 2
    restored = checkpoint.load_for_inference(weights)
    assert restored.step == 0
    jax.tree.map(np.testing.assert_array_equal, restored.params, params)
    assert isinstance(restored.params["into"], jax.Array)


def test_relative_directories_are_found(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.load_for_inference("weights").step == 0


def test_missing_checkpoints_are_named(run, tmp_path):
    with pytest.raises(ValueError, match="nowhere holds no checkpoint"):
        checkpoint.load_for_inference(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no checkpoint"):
        checkpoint.load_for_inference(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"no checkpoint of step 3; it has \[2, 4\]"):
        checkpoint.load_for_inference(run, step=3)


def test_directory_of_something_else_is_refused(linear_config, tmp_path):
    (tmp_path / "other" / "5" / "default").mkdir(parents=True)
    with pytest.raises(ValueError, match="not a checkpoint of this project|no checkpoint of step"):
        checkpoint.load_for_inference(tmp_path / "other")


def test_other_network_is_refused_by_name(run, config, monkeypatch):
    monkeypatch.setitem(models.MODELS, "cubic", models.MODELS["linear"])
    config.model.name = "cubic"
    with pytest.raises(ValueError, match="is a checkpoint of model linear, not of cubic"):
        train.train_and_evaluate(config, run)
    with pytest.raises(ValueError, match="is a checkpoint of model linear, not of cubic"):
        checkpoint.load_params(run, checkpoint.ModelSpec("cubic", {}), replicated())


def test_other_size_is_refused_by_field(run, config):
    config.model.features = 5
    with pytest.raises(ValueError, match=r"another size: features=4 \(here 5\)"):
        train.train_and_evaluate(config, run)
    config.init_from = str(run)
    with pytest.raises(ValueError, match=r"another size: features=4 \(here 5\)"):
        train.train_and_evaluate(config, run.parent / "new")


def test_default_fields_and_dtype_are_no_difference(weights):
    """`Linear` has 4 features by default."""
    spec = checkpoint.ModelSpec("linear", {"dtype": "bfloat16"})
    assert set(checkpoint.load_params(weights, spec, replicated())) == {"into", "out"}


def test_weights_alone_are_refused_as_a_run_with_the_way_out(config, params, tmp_path):
    checkpoint.save_params(tmp_path / "run" / "checkpoints", params, SPEC)
    with pytest.raises(ValueError, match="holds weights only.*--config.init_from=.*checkpoints"):
        train.train_and_evaluate(config, tmp_path / "run")


def test_weights_are_never_overwritten(weights, params):
    with pytest.raises(ValueError, match="weights already holds a checkpoint"):
        checkpoint.save_params(weights, params, SPEC)


def test_directory_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoint directory .*file/checkpoints cannot be created"):
        checkpoint.open_manager(tmp_path / "file" / "checkpoints")


@pytest.mark.parametrize(
    ("item", "is_inferred", "message"),
    [
        ("params/d/*", True, "training state of step 4"),
        ("params/_METADATA", True, "training state of step 4"),
        ("progress/d/*", False, "training state of step 4"),
        ("data/process_0-of-1.json", False, "training state of step 4"),
        ("model/metadata", True, "model item of step 4"),
    ],
)
def test_damaged_checkpoint_is_named(run, config, item, is_inferred, message):
    """`is_inferred`: whether inference needs the item too."""
    (file,) = (run / "checkpoints" / "4").glob(item)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match=f"{message} in .*run/checkpoints cannot be read") as error:
        train.train_and_evaluate(config, run)
    assert len(str(error.value)) < 800 and "\n" not in str(error.value)
    if is_inferred:
        with pytest.raises(ValueError, match="of step 4 in .* cannot be read"):
            checkpoint.load_for_inference(run)
    else:
        assert checkpoint.load_for_inference(run).step == 4


def test_run_goes_on_from_the_checkpoint_before_a_removed_one(run, config):
    whole = checkpoint.load_for_inference(run).params
    for file in sorted((run / "checkpoints" / "4").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    (run / "checkpoints" / "4").rmdir()
    train.train_and_evaluate(config, run)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_for_inference(run).params, whole)


def test_message_names_the_remedy(run, config):
    (file,) = (run / "checkpoints" / "4").glob("params/d/*")
    file.unlink()
    with pytest.raises(ValueError, match=re.escape("remove this step's directory")):
        train.train_and_evaluate(config, run)
