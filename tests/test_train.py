"""The training step against numpy, steps that are not finite, and runs that are resumed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stvsr_jax import checkpoint, losses, models, sharding, train, train_state


def make_batch(seed=0, size=2):
    """Return a batch for windows of three frames: [B, 2, 4, 8, 3] -> [B, 3, 16, 32, 3]."""
    rng = np.random.default_rng(seed)
    frames = rng.uniform(size=(size, 2, 4, 8, 3)).astype(np.float32)
    target = rng.uniform(size=(size, 3, 16, 32, 3)).astype(np.float32)
    return {"frames": frames, "target": target, "times": np.tile(np.float32([0, 0.5, 1]), (size, 1))}


@pytest.fixture
def setup(linear_config):
    """Return a function that makes (state, step) of a linear network."""

    def make(optimizer=None, loss=("charbonnier", "mean")):
        optimizer = optimizer or optax.sgd(0.5)
        mesh, model = sharding.make_mesh(), models.build("linear")
        state = train_state.create(model, optimizer, jax.random.key(0))
        state = jax.device_put(state, sharding.replicated(mesh))
        return state, train.make_train_step(model, optimizer, train.LossConfig(*loss), mesh)

    return make


def numpy_step(params, batch):
    """Return (mean Charbonnier loss, PSNR, gradients) of the linear network in float64."""
    into, out = (np.asarray(params[name], np.float64) for name in ("into", "out"))
    frames = batch["frames"].astype(np.float64)
    x = np.stack([frames[:, 0], (frames[:, 0] + frames[:, 1]) / 2, frames[:, 1]], axis=1)
    x = x.repeat(4, axis=2).repeat(4, axis=3).reshape(-1, 3)
    difference = x @ into @ out - batch["target"].reshape(-1, 3)
    loss = np.sqrt(difference**2 + 1e-6)
    grad = difference / loss / difference.size
    grads = {"into": x.T @ (grad @ out.T), "out": (x @ into).T @ grad}
    return loss.mean(), -10 * np.log10((difference**2).mean()), grads


def test_step_equals_numpy(setup):
    state, step = setup()
    before, batch = jax.device_get(state.params), make_batch()
    loss, psnr, grads = numpy_step(before, batch)
    state, numbers = step(state, batch)
    np.testing.assert_allclose(numbers["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(numbers["psnr"], psnr, rtol=1e-5)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    np.testing.assert_allclose(numbers["grad_norm"], norm, rtol=1e-5)
    for name in before:
        np.testing.assert_allclose(state.params[name], before[name] - 0.5 * grads[name], rtol=1e-4, atol=1e-6)
    assert (state.step, state.skipped, numbers["skipped"]) == (1, 0, 0)


def test_sum_reduction_is_the_mean_times_the_number_of_values(setup):
    batch = make_batch()
    state, step = setup()
    _, mean = step(state, batch)
    state, step = setup(loss=("charbonnier", "sum"))
    _, total = step(state, batch)
    np.testing.assert_allclose(total["loss"], mean["loss"] * batch["target"].size, rtol=1e-5)
    np.testing.assert_allclose(total["grad_norm"], mean["grad_norm"] * batch["target"].size, rtol=1e-4)


def test_loss_falls_to_the_solution(setup):
    state, step = setup(optax.adam(0.02))
    batch = make_batch()
    colours = np.array([[0.2, 0.1, 0.7], [0.5, 0.8, 0.1], [0.3, 0.1, 0.2]], np.float32)
    first, between, last = batch["frames"][:, 0], batch["frames"].mean(axis=1), batch["frames"][:, 1]
    target = np.stack([first, between, last], axis=1) @ colours
    batch["target"] = target.repeat(4, axis=2).repeat(4, axis=3)
    values = []
    for _ in range(150):
        state, numbers = step(state, batch)
        values.append(float(numbers["loss"]))
    assert values[-1] < 0.05 * values[0]
    np.testing.assert_allclose(state.params["into"] @ state.params["out"], colours, atol=0.1)


@pytest.mark.parametrize("where", ["frames", "target"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_batch_that_is_not_finite_changes_nothing_but_the_counts(setup, where, bad):
    state, step = setup(optax.adam(0.1))
    state, _ = step(state, make_batch())
    before = jax.device_get(state)
    batch = make_batch(1)
    batch[where][0, 0, 1, 2, 0] = bad
    for count in (1, 2):
        state, numbers = step(state, batch)
        assert (numbers["skipped"], numbers["skipped_in_a_row"]) == (1, count)
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)
    assert (after.step, after.skipped) == (3, 2)
    state, numbers = step(state, make_batch(2))
    assert (state.skipped, numbers["skipped"]) == (0, 0)
    assert not np.array_equal(state.params["into"], before.params["into"])


def test_gradient_that_is_not_finite_is_skipped_though_the_loss_is(setup, monkeypatch):
    # |d| as sqrt(d^2) has the value 0 and the gradient 0 / 0 at d = 0.
    monkeypatch.setitem(losses.LOSSES, "l1", lambda a, b: jnp.sqrt((a - b) ** 2))
    state, step = setup(loss=("l1", "mean"))
    batch = make_batch()
    batch["frames"][:], batch["target"][:] = 0, 0
    before = jax.device_get(state.params)
    state, numbers = step(state, batch)
    assert numbers["loss"] == 0 and numbers["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), before)


@pytest.mark.parametrize(("name", "reduction", "value"), [("l2", "mean", "'l2'"), ("l1", "max", "'max'")])
def test_unknown_loss_is_named(name, reduction, value):
    with pytest.raises(ValueError, match=f"loss: {value} is not one of"):
        train.LossConfig(name, reduction)


@pytest.mark.parametrize(
    "field",
    ["num_steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "max_skipped_steps"],
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
    assert "train/skipped 0.5 " in lines[0] and "train/skipped 0.3333 " in lines[1]


def test_run_reports_saves_and_scores(config, tmp_path, capsys):
    scores = train.train_and_evaluate(config, tmp_path / "run")
    assert set(scores) == {"psnr_y", "psnr_y_bicubic"}
    out = capsys.readouterr().out
    assert "1 clip, 24 frames, 1 scene: noise 32x24" in out
    assert "linear, 24 parameters, 1 x cpu, from scratch" in out
    assert f"step 4/4  validation/psnr_y {scores['psnr_y']:.4g}" in out
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


def test_resumed_run_is_bitwise_equal(config, tmp_path, monkeypatch):
    seen = poison(monkeypatch, set())
    whole = train.train_and_evaluate(config, tmp_path / "whole")
    batches = list(seen)
    seen.clear()
    config.train.num_steps = 2
    train.train_and_evaluate(config, tmp_path / "parts")
    config.train.num_steps = 4
    parts = train.train_and_evaluate(config, tmp_path / "parts")
    assert whole == parts
    assert len(seen) == len(batches) == 4
    for ours, theirs in zip(seen, batches, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    first, second = (checkpoint.load_for_inference(tmp_path / name) for name in ("whole", "parts"))
    assert first.step == second.step == 4
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


def test_run_that_had_ended_is_scored_again(config, tmp_path):
    first = train.train_and_evaluate(config, tmp_path / "run")
    assert train.train_and_evaluate(config, tmp_path / "run") == first


def test_evaluate_only_scores_the_newest_checkpoint(config, tmp_path):
    scores = train.train_and_evaluate(config, tmp_path / "run")
    assert train.evaluate_only(config, tmp_path / "run") == scores
    config.init_from = str(tmp_path / "run")
    assert train.evaluate_only(config, tmp_path / "elsewhere") == scores
    assert not (tmp_path / "elsewhere").exists()


def test_init_from_starts_from_the_weights_at_step_zero(config, tmp_path, capsys):
    spec = checkpoint.ModelSpec("linear", {"features": 4})
    params = {"into": np.full((3, 4), 0.25, np.float32), "out": np.full((4, 3), 0.5, np.float32)}
    checkpoint.save_params(tmp_path / "weights", params, spec)
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
    assert sorted(tmp_path.rglob("*")) == before


def test_network_that_does_not_fit_the_samples_is_refused(config, tmp_path):
    config.data.recipe.scale = 2
    with pytest.raises(ValueError, match="zooming_slowmo makes 3 frames of 16x16 .*, not 3 of 8x8"):
        train.train_and_evaluate(config, tmp_path / "run")
