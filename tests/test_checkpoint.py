"""Weights of a run or alone, what is refused and how it is named."""

import jax
import numpy as np
import pytest

from stvsr_jax import checkpoint, models
from stvsr_jax.runtime import sharding
from stvsr_jax.training import train

SPEC = checkpoint.ModelSpec("linear", {"features": 4})


@pytest.fixture
def weights(linear_config, params, tmp_path):
    """Return a directory of weights alone."""
    checkpoint.save_params(tmp_path / "weights", params, SPEC)
    return tmp_path / "weights"


def replicated():
    return sharding.replicated(sharding.make_mesh())


def test_load_for_inference_finds_a_run_its_checkpoints_and_weights(run, weights, params):
    for directory in (run, run / "checkpoints", str(run)):
        restored = checkpoint.load_for_inference(directory)
        assert (restored.model_name, restored.step) == ("linear", 4)
        assert restored.model_kwargs == {"features": 4}
    assert checkpoint.load_for_inference(run, step=2).step == 2
    assert checkpoint.load_for_inference(run / "checkpoints" / "2").step == 2
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


def test_directory_that_cannot_be_written_is_refused_at_the_start(config, tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    write_text = type(checkpoint.absolute(tmp_path)).write_text

    def fail(path, *args, **kwargs):
        if path.name == ".writable":
            raise PermissionError(13, "Permission denied", str(path))
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(type(checkpoint.absolute(tmp_path)), "write_text", fail)
    with pytest.raises(ValueError, match="checkpoints cannot be created or written: .*Permission denied"):
        train.train_and_evaluate(config, tmp_path / "run")


def test_paths_with_a_scheme_stay_as_they_are():
    assert str(checkpoint.absolute("gs://bucket/run") / "checkpoints") == "gs://bucket/run/checkpoints"
