"""The training step against numpy: values, accumulation, averages, and steps that are not finite."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stvsr_jax import models
from stvsr_jax.runtime import sharding
from stvsr_jax.training import losses, optim, train_state, train_step


def make_batch(seed=0, size=2):
    """Return a batch for windows of three frames: [B, 2, 4, 8, 3] -> [B, 3, 16, 32, 3]."""
    rng = np.random.default_rng(seed)
    frames = rng.uniform(size=(size, 2, 4, 8, 3)).astype(np.float32)
    target = rng.uniform(size=(size, 3, 16, 32, 3)).astype(np.float32)
    return {"frames": frames, "target": target, "times": np.tile(np.float32([0, 0.5, 1]), (size, 1))}


def sgd(rate):
    return optax.chain(optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=rate))


def adam(rate):
    return optim.make_optimizer(optim.OptimizerConfig(rate, rate, 100, 0.9, 0.99))


@pytest.fixture
def setup(linear_config):
    """Return a function that makes (state, step) of a linear network."""

    def make(optimizer=None, loss=("charbonnier", "mean"), ema_decay=0.0, **options):
        optimizer = optimizer or sgd(0.5)
        mesh, model = sharding.make_mesh(), models.build("linear")
        params = train_state.draw_params(model, jax.random.key(0))
        state = train_state.create_on(mesh, params, optimizer, has_ema=ema_decay > 0)
        loss = train_step.LossConfig(*loss)
        options["ema_decay"] = ema_decay
        return state, train_step.make_train_step(model, optimizer, loss, mesh, **options)

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
    state, step = setup(adam(0.02))
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
    state, step = setup(adam(0.1))
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
        train_step.LossConfig(name, reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_micro_batches_change_nothing_but_rounding(setup, reduction):
    results = []
    for count in (1, 2, 4):
        state, step = setup(sgd(1e-3), ("charbonnier", reduction), micro_batches=count)
        for seed in (0, 1):
            state, numbers = step(state, make_batch(seed, size=8))
        results.append(jax.device_get((state.params, numbers)))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), other, results[0])


def test_average_follows_the_parameters_and_not_the_skipped_steps(setup):
    state, step = setup(adam(0.1), ema_decay=0.6)
    average = jax.device_get(state.params)
    for n in range(4):
        batch = make_batch(n)
        if n == 2:
            batch["frames"][0, 0, 0, 0, 0] = np.nan
        state, _ = step(state, batch)
        rate = min(0.6, (1 + n) / (10 + n))
        params = jax.device_get(state.params)
        if n != 2:
            average = {k: rate * average[k] + (1 - rate) * params[k] for k in average}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.ema, average)
    assert not np.allclose(state.ema["into"], state.params["into"], rtol=1e-3)


def test_learning_rate_is_the_one_of_the_update_and_stays_behind_by_skipped_steps(setup):
    config = optim.OptimizerConfig(1e-2, 0.0, 10, 0.9, 0.99)
    state, step = setup(optim.make_optimizer(config))
    schedule = optim.make_schedule(config)
    bad = make_batch()
    bad["target"][:] = np.nan
    rates = []
    for batch in (make_batch(0), bad, bad, make_batch(1), make_batch(2)):
        before = jax.device_get(state.params)
        state, numbers = step(state, batch)
        rates.append(float(numbers["learning_rate"]))
        if len(rates) == 1:  # Adam's first update has the size of the rate
            np.testing.assert_allclose(np.abs(state.params["into"] - before["into"]), rates[0], rtol=1e-3)
    expected = [float(schedule(n)) for n in (0, 1, 1, 1, 2)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_each_rollback_lowers_the_rate_of_the_update(setup):
    updates = []
    for count in (0, 1, 2):
        state, step = setup(rollback_rate=0.25)
        before = jax.device_get(state.params["into"])
        state = state.replace(rollbacks=jax.device_put(np.int32(count), state.rollbacks.sharding))
        state, numbers = step(state, make_batch())
        np.testing.assert_allclose(numbers["learning_rate"], 0.5 * 0.25**count)
        updates.append(state.params["into"] - before)
    np.testing.assert_allclose(updates[1], updates[0] * 0.25, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(updates[2], updates[0] * 0.0625, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize(("name", "dtype"), [("zooming_slowmo", jnp.float32), ("videoinr", jnp.bfloat16)])
def test_whole_step_of_a_network_is_exported_for_tpu(name, dtype):
    """Lowered, not compiled: every operation of forward, backward and update has a form for TPU."""
    model = models.build(name, features=8, front_blocks=1, back_blocks=1, groups=2, dtype=dtype)
    mesh = sharding.make_mesh()
    step = train_step.make_train_step(
        model, adam(1e-3), train_step.LossConfig("charbonnier", "mean"), mesh, ema_decay=0.9
    )
    state = train_state.describe(model, adam(1e-3), mesh, has_ema=True)
    shapes = {"frames": (2, 2, 8, 8, 3), "target": (2, 3, 32, 32, 3), "times": (2, 3)}
    rows = sharding.batch_sharding(mesh)
    batch = {key: jax.ShapeDtypeStruct(s, jnp.float32, sharding=rows) for key, s in shapes.items()}
    exported = jax.export.export(step.jitted, platforms=["tpu"])(state, batch)
    assert exported.platforms == ("tpu",)
    assert "stablehlo.convolution" in exported.mlir_module()
    # Nothing calls out but for the annotations of shardings; a kernel of another platform would.
    called = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
    assert called <= {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}
    out, numbers = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), out) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert numbers["loss"].shape == () and numbers["loss"].dtype == jnp.float32
