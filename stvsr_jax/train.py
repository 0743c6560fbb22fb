"""The training step and the loop around it."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax.sharding import Mesh

from stvsr_jax import checkpoint, data, evaluate, losses, metric_writer, models, optim, sharding, train_state
from stvsr_jax.train_state import TrainState

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long a run is and how often it reports and saves; all in steps.

    Attributes:
      num_steps: of the whole run.
      log_every: averages are written and printed.
      eval_every: the held-out windows are scored; also at the end.
      checkpoint_every: the state is saved; also at the end.
      keep_checkpoints: how many of the newest stay.
      max_skipped_steps: this many non-finite gradients in a row end the run.
    """

    num_steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int
    max_skipped_steps: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"train: {field.name}={getattr(self, field.name)} must be at least 1")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Which loss: a name in `losses.LOSSES` and a reduction in `losses.REDUCTIONS`."""

    name: str
    reduction: str

    def __post_init__(self):
        for value, known in ((self.name, losses.LOSSES), (self.reduction, losses.REDUCTIONS)):
            if value not in known:
                raise ValueError(f"loss: {value!r} is not one of {sorted(known)}")

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Return the scalar loss, float32."""
        return losses.REDUCTIONS[self.reduction](losses.LOSSES[self.name](prediction, target))


def make_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation, loss: LossConfig, mesh: Mesh
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """Return the jitted step (state, batch) -> (state, metrics); the state passed in is consumed.

    The batch is split over the mesh and the state is on every device; XLA puts in the sum of the gradients.
    A non-finite loss or gradient leaves parameters and optimiser as they were and counts as skipped.

    Args:
      model: from `models.build`.
      optimizer: updates the parameters.
      loss: of prediction and target.
      mesh: the devices.

    Returns:
      The step. Batches are {frames [B, N, H, W, 3], target [B, T, H', W', 3], times [B, T]}; metrics are
      float32 scalars: loss, psnr (RGB, dB), grad_norm, skipped (1 if this step was).
    """

    def loss_fn(params, batch):
        target = batch["target"]
        prediction = models.render(model, params, batch["frames"], batch["times"], out_size=target.shape[2:4])
        return loss(prediction, target), jnp.mean((prediction - target) ** 2)

    def step(state, batch):
        (value, mse), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        state = TrainState(
            state.step + 1,
            keep(params, state.params),
            keep(opt_state, state.opt_state),
            jnp.where(finite, 0, state.skipped + 1),
        )
        numbers = {
            "loss": value,
            "psnr": -10.0 * jnp.log10(mse),
            "grad_norm": grad_norm,
            "skipped": 1.0 - finite.astype(jnp.float32),
            "skipped_in_a_row": state.skipped,
        }
        return state, numbers

    whole = sharding.replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, sharding.batch_sharding(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


@dataclasses.dataclass
class Run:
    """Everything a config describes, checked and built, before the first step."""

    spec: checkpoint.ModelSpec
    model: nn.Module
    mesh: Mesh
    loop: LoopConfig
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    loss: LossConfig
    datasets: data.Datasets
    seed: int
    init_from: str


def prepare(config: ml_collections.ConfigDict) -> Run:
    """Check a config and build what it describes; nothing has been computed or written afterwards.

    Raises:
      ValueError: a key is unknown or missing, or a value is impossible.
    """
    sections = _only(
        config, "config", "model", "dtype", "data", "optimizer", "loss", "train", "seed", "init_from"
    )
    fields = dict(sections["model"])
    name = fields.pop("name", None)
    spec = checkpoint.ModelSpec(name, fields)
    if sections["dtype"] not in DTYPES:
        raise ValueError(f"config.dtype={sections['dtype']!r} is not one of {sorted(DTYPES)}")
    model = spec.build(dtype=DTYPES[sections["dtype"]])
    optimizer = _section(optim.OptimizerConfig, "optimizer", sections)
    mesh = sharding.make_mesh()
    data_config = _section(data.DataConfig, "data", sections)
    datasets = data.make_datasets(
        data_config,
        seed=sections["seed"],
        batch_size=sharding.process_batch_size(data_config.batch_size, mesh),
        eval_batch_size=len(mesh.local_devices),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return Run(
        spec=spec,
        model=model,
        mesh=mesh,
        loop=_section(LoopConfig, "train", sections),
        schedule=optim.make_schedule(optimizer),
        optimizer=optim.make_optimizer(optimizer),
        loss=_section(LossConfig, "loss", sections),
        datasets=datasets,
        seed=sections["seed"],
        init_from=sections["init_from"],
    )


def _only(config, where, *names):
    """Return the config as a dict, which must have exactly these keys."""
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(f"{where} has unknown keys {unknown}; its keys are {sorted(names)}")
    if missing := sorted(set(names) - set(given)):
        raise ValueError(f"{where} lacks the keys {missing}")
    return given


def _section(cls, name, sections):
    """Return the dataclass `cls` of a section of the config."""
    fields = [field.name for field in dataclasses.fields(cls)]
    return cls(**_only(sections[name], f"config.{name}", *fields))


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, float]:
    """Train what a config describes, resuming from the newest checkpoint of the directory.

    Args:
      config: as in configs/.
      workdir: of the run; gets `checkpoints/` and `tensorboard/`.

    Returns:
      The scores of the last evaluation.

    Raises:
      ValueError: the config, the data or a checkpoint does not fit; before the first step.
      FloatingPointError: `train.max_skipped_steps` gradients in a row were not finite.
    """
    run = prepare(config)
    workdir = pathlib.Path(workdir)
    iterator = iter(run.datasets.train)
    state = _initial_state(run)
    with checkpoint.open_manager(workdir / "checkpoints", keep=run.loop.keep_checkpoints) as manager:
        resumed = manager.latest_step() is not None
        if resumed:
            state = checkpoint.restore_latest(manager, state, iterator, run.spec)
        elif run.init_from:
            params = checkpoint.load_params(run.init_from, run.spec, sharding.replicated(run.mesh))
            state = state.replace(params=params)
        with metric_writer.MetricWriter(
            workdir / "tensorboard",
            first_step=int(state.step),
            num_steps=run.loop.num_steps,
            is_writer=jax.process_index() == 0,
        ) as writer:
            _greet(run, state, writer, workdir, resumed)
            return _loop(run, state, iterator, manager, writer)


def evaluate_only(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, float]:
    """Score the newest checkpoint of a run (or `init_from`) on the held-out windows.

    Raises:
      ValueError: the config, the data or the checkpoint does not fit.
    """
    run = prepare(config)
    params = checkpoint.load_params(run.init_from or workdir, run.spec, sharding.replicated(run.mesh))
    eval_step = evaluate.make_eval_step(run.model, run.mesh)
    return evaluate.score(eval_step, params, run.datasets.validation, run.mesh)


def _initial_state(run):
    create = jax.jit(train_state.create, static_argnums=(0, 1), out_shardings=sharding.replicated(run.mesh))
    return create(run.model, run.optimizer, jax.random.key(run.seed))


def _greet(run, state, writer, workdir, resumed):
    count = sum(x.size for x in jax.tree.leaves(state.params))
    devices = f"{run.mesh.size} x {run.mesh.devices.flat[0].device_kind}"
    start = f"resuming after step {int(state.step)}" if resumed else run.init_from or "from scratch"
    writer.say(run.datasets.description)
    writer.say(f"{run.spec.name}, {count:,} parameters, {devices}, {start}, writing to {workdir}")


def _loop(run, state, iterator, manager, writer):
    train_step = make_train_step(run.model, run.optimizer, run.loss, run.mesh)
    eval_step = evaluate.make_eval_step(run.model, run.mesh)
    scores, interval = {}, _Interval()
    first, last = int(state.step), run.loop.num_steps
    pending, shown = None, {}
    if first >= last:  # the run had ended
        return evaluate.score(eval_step, state.params, run.datasets.validation, run.mesh)
    for step in range(first + 1, last + 1):
        batch = sharding.to_global(next(iterator), run.mesh)
        state, numbers = train_step(state, batch)
        # Read the step before, so that one step is always under way while the host prepares the next.
        interval.add(pending)
        pending = numbers
        if step == first + 1:
            interval.add(pending)  # waits for the compilation, which no average should contain
            interval, pending = _Interval(), None
        shown = interval.last or shown
        writer.progress(step, {key: shown[key] for key in ("loss", "psnr") if key in shown})
        if step % run.loop.log_every == 0 or step == last:
            interval.add(pending)
            pending, shown = None, interval.last or shown
            averages = interval.averages()
            if averages:
                _stop_if_diverged(run, step, averages)
                averages["learning_rate"] = float(run.schedule(step - 1))
                eta = averages["step_seconds"] * (last - step)
                writer.write(step, {f"train/{key}": value for key, value in averages.items()}, eta=eta)
            interval = _Interval()
        with interval.paused():
            if step % run.loop.checkpoint_every == 0 or step == last:
                checkpoint.save(manager, state, iterator, run.spec)
            if step % run.loop.eval_every == 0 or step == last:
                scores = evaluate.score(eval_step, state.params, run.datasets.validation, run.mesh)
                writer.write(
                    step, {f"validation/{key}": value for key, value in scores.items()}, announce=True
                )
    manager.wait_until_finished()
    return scores


def _stop_if_diverged(run, step, averages):
    if averages["skipped_in_a_row"] >= run.loop.max_skipped_steps:
        raise FloatingPointError(
            f"step {step}: the last {averages['skipped_in_a_row']:.0f} losses or gradients were not finite "
            "and their updates were skipped; lower optimizer.learning_rate and start again from the last checkpoint"
        )


class _Interval:
    """Metrics since the last log line, and how long a step took."""

    def __init__(self):
        self._numbers, self._began, self.last = [], time.perf_counter(), None

    @contextlib.contextmanager
    def paused(self):
        """Leave out the time spent inside."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def add(self, numbers):
        """Wait for one step's metrics and keep them; None is nothing."""
        if numbers is not None:
            self.last = {key: float(value) for key, value in jax.device_get(numbers).items()}
            self._numbers.append(self.last)

    def averages(self):
        """Return the mean of each metric (the last of the run of skipped steps), {} without steps.

        Only `skipped` counts the steps that were; the rest would not be finite.
        """
        if not self._numbers:
            return {}
        taken = [n for n in self._numbers if not n["skipped"]] or self._numbers
        means = {key: sum(n[key] for n in taken) / len(taken) for key in self.last}
        means["skipped"] = sum(n["skipped"] for n in self._numbers) / len(self._numbers)
        means["skipped_in_a_row"] = self.last["skipped_in_a_row"]
        means["step_seconds"] = (time.perf_counter() - self._began) / len(self._numbers)
        return means
