"""Every config and variant is complete, and the published numbers are in it."""

import importlib.util
import pathlib

import pytest

from stvsr_jax.data.mixture import Source
from stvsr_jax.runtime import sharding
from stvsr_jax.training import train

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get_config(name, *variant):
    (path,) = [path for path in CONFIGS if path.stem == name]
    return load(path).get_config(*variant)


def all_variants():
    return [(path.stem, variant) for path in CONFIGS for variant in load(path).VARIANTS]


def test_there_are_configs_with_a_quick_variant():
    assert {("videoinr", ""), ("videoinr", "quick"), ("zooming_slowmo", "quick")} <= set(all_variants())


@pytest.mark.parametrize(("name", "variant"), all_variants())
def test_config_is_prepared(name, variant, tmp_path, write_frames):
    write_frames(tmp_path / "clips" / "noise", 96, 128, 128)
    config = get_config(name, variant)
    config.data.update({"path": str(tmp_path / "clips"), "cut_threshold": 0.0})
    run = train.prepare(config)
    assert run.spec.name == name and run.loop.num_steps == config.train.num_steps
    batch = next(iter(run.datasets.train))
    rows = sharding.process_batch_size(config.data.batch_size, run.mesh)
    crop = config.data.recipe.lr_crop
    assert batch["frames"].shape[0] == rows and batch["frames"].shape[2:] == (crop, crop, 3)
    scored = [batch["target"].shape[0] for batch in run.datasets.validation]
    assert sum(scored) >= config.data.validation_windows


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_unknown_variant_is_named(path):
    with pytest.raises(ValueError, match="'slow' is not one of"):
        load(path).get_config("slow")


@pytest.mark.parametrize(("name", "variant"), all_variants())
def test_durations_divide_the_run(name, variant):
    numbers = get_config(name, variant).train
    for key in ("log_every", "eval_every", "checkpoint_every"):
        assert numbers.num_steps % numbers[key] == 0


@pytest.mark.parametrize("name", ["videoinr", "zooming_slowmo"])
def test_sizes_and_optimiser_are_as_published(name):
    config = get_config(name)
    sizes = {"features": 64, "front_blocks": 5, "back_blocks": 40, "groups": 8}
    assert {key: config.model[key] for key in sizes} == sizes
    rate = {"zooming_slowmo": 4e-4, "videoinr": 1e-4}[name]
    assert config.optimizer.to_dict() == {
        "learning_rate": rate,
        "final_learning_rate": 1e-7,
        "cycle_steps": 150_000,
        "b1": 0.9,
        "b2": 0.99,
        "clip_norm": 0.0,
        "offset_rate": 1.0,
        "ema_decay": 0.999,
    }
    assert config.loss.name == "charbonnier"
    assert config.train.num_steps == 600_000


def test_zooming_slowmo_samples_are_as_published():
    config = get_config("zooming_slowmo")
    assert config.data.batch_size == 16
    run_recipe = train.data.datasets.recipe_of(config.data.recipe.to_dict(), Source("pip"))
    ((start, spec),) = run_recipe
    assert start == 0
    assert (spec.window, spec.inputs, spec.num_times) == (7, (0, 2, 4, 6), None)
    assert (spec.scale, spec.lr_crop) == (4, 32)
    assert spec.augment and spec.reverse_time and not spec.augment_per_batch


def test_videoinr_samples_are_as_published():
    config = get_config("videoinr")
    assert config.data.batch_size == 24
    assert tuple(config.model.hidden) == (64, 64, 256)
    (start, first), (second_start, second) = train.data.datasets.recipe_of(
        config.data.recipe.to_dict(), Source("pip")
    )
    assert (start, second_start) == (0, 450_000)
    assert second.num_scales == 8
    config.data.recipe.num_scales = 0
    assert train.data.datasets.recipe_of(config.data.recipe.to_dict(), Source("pip"))[1][1].num_scales is None
    assert first.quantize and second.quantize
    config.data.recipe.quantize = False
    float_recipe = train.data.datasets.recipe_of(config.data.recipe.to_dict(), Source("pip"))
    assert not any(spec.quantize for _, spec in float_recipe)
    for spec in (first, second):
        assert (spec.window, spec.inputs, spec.lr_crop) == (9, (0, 8), 32)
        assert spec.augment and not spec.reverse_time
    assert (first.scale, first.num_times, first.augment_per_batch) == (4, 1, False)
    assert (second.scale, second.num_times, second.augment_per_batch) == ((2.0, 4.0), 3, True)


def test_quick_variants_keep_the_recipe():
    """What is made small is size and length; the same code runs."""
    for name in ("videoinr", "zooming_slowmo"):
        whole, quick = get_config(name), get_config(name, "quick")
        assert quick.data.recipe.name == whole.data.recipe.name and quick.model.name == whole.model.name
        assert quick.loss == whole.loss and (quick.optimizer.b1, quick.optimizer.b2) == (0.9, 0.99)
        assert quick.model.features < whole.model.features
        assert quick.train.num_steps < 1000
