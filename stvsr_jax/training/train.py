"""A run from its config: what it describes is checked and built, then trained or scored."""

import contextlib
import dataclasses
import pathlib

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from stvsr_jax import checkpoint, data, models
from stvsr_jax.locks import only_one
from stvsr_jax.runtime import distributed, sharding
from stvsr_jax.training import checkpoints, loop, metric_writer, optim, train_state, validation
from stvsr_jax.training.run import LoopConfig, Run
from stvsr_jax.training.train_step import LossConfig
from stvsr_jax.weights import sources

# float16 would need its loss to be scaled: its smallest gradients are zero.
DTYPES = {name: models.DTYPES[name] for name in ("float32", "bfloat16")}


def prepare(config: ml_collections.ConfigDict) -> Run:
    """Checks a config and builds what it describes; nothing but the scans of clips is written.

    Raises:
      ValueError: a key is unknown or missing, or a value is impossible.
    """
    sections = _only(
        config, "config", "model", "dtype", "data", "optimizer", "loss", "train", "mesh", "seed", "init_from"
    )
    fields = dict(sections["model"])
    name = fields.pop("name", None)
    spec = checkpoint.ModelSpec(name, fields)
    if sections["dtype"] not in DTYPES:
        raise ValueError(f"config.dtype={sections['dtype']!r} is not one of {sorted(DTYPES)}")
    model = spec.build(dtype=DTYPES[sections["dtype"]])
    optimizer_config = _section(optim.OptimizerConfig, "optimizer", sections)
    loop_config = _section(LoopConfig, "train", sections)
    mesh = sharding.make_mesh(**_only(sections["mesh"], "config.mesh", "fsdp"))
    data_config = _section(data.DataConfig, "data", sections)
    datasets = data.make_datasets(
        data_config,
        seed=sections["seed"],
        batch_size=sharding.process_batch_size(
            data_config.batch_size, mesh, micro_batches=loop_config.micro_batches
        ),
        eval_batch_size=len(mesh.local_devices),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return Run(
        spec=spec,
        model=model,
        mesh=mesh,
        loop=loop_config,
        optimizer=optim.make_optimizer(optimizer_config),
        optimizer_config=optimizer_config,
        loss=_section(LossConfig, "loss", sections),
        datasets=datasets,
        batch_size=data_config.batch_size,
        seed=sections["seed"],
        init_from=sections["init_from"],
    )


def _only(config, where, *names):
    """Returns the config as a dict, which must have exactly these keys."""
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(f"{where} has unknown keys {unknown}; its keys are {sorted(names)}")
    if missing := sorted(set(names) - set(given)):
        raise ValueError(f"{where} lacks the keys {missing}")
    return given


def _section(cls, name, sections):
    """Returns the dataclass `cls` of a section of the config."""
    fields = [field.name for field in dataclasses.fields(cls)]
    return cls(**_only(sections[name], f"config.{name}", *fields))


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, float]:
    """Trains what a config describes, resuming from the newest checkpoint of the directory.

    Args:
      config: as in configs/.
      workdir: of the run, local or gs://; gets `checkpoints/`, `metrics.csv` and `tensorboard/`.

    Returns:
      The scores of the last evaluation.

    Raises:
      ValueError: the config, the data or a checkpoint does not fit; before the first step.
      FloatingPointError: `train.max_skipped_steps` gradients in a row were not finite.
      command_line.StoppedError: SIGTERM or Ctrl-C came; the state is saved.
      OSError: something cannot be written, or another process trains in this directory.
    """
    run = prepare(config)
    workdir = checkpoint.absolute(workdir)
    # Left in reverse order: the writer first, the lock last.
    with contextlib.ExitStack() as stack:
        _lock(workdir, stack)
        manager = stack.enter_context(
            checkpoint.open_manager(
                workdir / "checkpoints", keep=run.loop.keep_checkpoints, keep_every=run.loop.keep_every
            )
        )
        # From here on a signal is noted, and the loop answers it once it has a state to save.
        stop = stack.enter_context(distributed.StopRequest())
        state, start = _first_state(run, manager)
        writer = stack.enter_context(
            metric_writer.MetricWriter(
                workdir,
                first_step=int(state.step),
                num_steps=run.loop.num_steps,
                is_writer=jax.process_index() == 0,
            )
        )
        count = sum(x.size for x in jax.tree.leaves(state.params))
        devices = f"{run.mesh.size} x {run.mesh.devices.flat[0].device_kind}"
        writer.say(run.datasets.description)
        writer.say(f"{run.spec.name}, {count:,} parameters, {devices}, {start}, writing to {workdir}")
        return loop.train(run, state, loop.Services(manager, writer, stop))


def evaluate_only(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, float]:
    """Scores the newest checkpoint of a run on the held-out windows; without one, what `init_from` names.

    Raises:
      ValueError: the config, the data or the checkpoint does not fit, or there is none.
    """
    run = prepare(config)
    source = workdir if checkpoint.has_checkpoint(workdir) else run.init_from
    if not source:
        raise ValueError(f"{workdir} holds no checkpoint to score, and config.init_from names no weights")
    if jax.process_index() == 0:
        print(f"scoring {source}")
    params = sources.load_params(source, run.spec, sharding.replicated(run.mesh))
    eval_step = validation.make_eval_step(run.model, run.mesh)
    return validation.score(eval_step, params, run.datasets.validation, run.mesh)


def _lock(workdir, stack):
    """Keeps other runs out of a local directory: they would remove a checkpoint that this one is writing."""
    failure = None
    if jax.process_index() == 0 and "://" not in str(workdir):  # a bucket has no locks
        try:
            stack.enter_context(only_one(pathlib.Path(workdir) / ".lock", "being trained in"))
        except OSError as error:
            failure = error
    if jax.process_count() > 1:  # all fail, or one would wait for the others for ever
        is_locked = multihost_utils.broadcast_one_to_all(np.array(failure is None))
        if not is_locked and failure is None:
            failure = BlockingIOError(f"{workdir} cannot be locked by the first process")
    if failure is not None:
        raise failure


def _first_state(run, manager):
    """Returns the state to begin with, and where it is from."""
    # A run that has saved anything goes on, whatever `init_from` names: the same command begins and resumes.
    if manager.latest_step() is not None:
        state = checkpoints.restore_latest(manager, run.describe_state(), run.spec)
        checkpoints.remove_surplus(manager, keep=run.loop.keep_checkpoints, keep_every=run.loop.keep_every)
        return state, f"resuming after step {int(state.step)}"
    if run.init_from:
        params = sources.load_params(run.init_from, run.spec, sharding.replicated(run.mesh))
    else:
        params = train_state.draw_params(run.model, jax.random.key(run.seed))
    state = train_state.create_on(run.mesh, params, run.optimizer, has_ema=run.optimizer_config.ema_decay > 0)
    return state, run.init_from or "from scratch"
