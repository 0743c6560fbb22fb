"""Orbax checkpoints of a run.

A checkpoint is a directory named by its step, with the items `params`, `ema` (their average, where there is one),
`progress` (optimiser state and counters) and `model` (the network's name and sizes, JSON); scores are its metrics.
The position in the data is the step. Converted published weights hold only `params` and `model`; training starts
from them and inference runs them alike. Directories may be local or anything that etils.epath reads, as gs://.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers as policies

from stvsr_jax import models
from stvsr_jax.train_state import TrainState

BEST_METRIC = "psnr_y"  # the checkpoint with the highest is kept
WEIGHTS = ("ema", "raw")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A network by name and module fields, as a checkpoint records it.

    Attributes:
      name: a key of `models.MODELS`.
      fields: keyword arguments of `models.build`, without dtype: it is no property of the weights.
    """

    name: str
    fields: dict[str, Any]

    def build(self, **overrides):
        """Return the module, with some fields replaced."""
        return models.build(self.name, **{**self.fields, **overrides})


@dataclasses.dataclass(frozen=True)
class Restored:
    """Parameters and the network they belong to.

    Attributes:
      model_name: a key of `models.MODELS`.
      model_kwargs: keyword arguments of `models.build`.
      params: the parameter tree.
      step: training steps behind it.
    """

    model_name: str
    model_kwargs: dict[str, Any]
    params: Any
    step: int


def open_manager(
    directory: str | pathlib.Path, *, keep: int | None = None, keep_every: int = 0
) -> ocp.CheckpointManager:
    """Open (and create) a directory of checkpoints, written in the background.

    Args:
      directory: of the checkpoints.
      keep: how many of the newest stay, besides the one with the best score; None keeps all.
      keep_every: checkpoints of multiples of this step stay, too; 0 for none.

    Raises:
      ValueError: the directory cannot be created or written.
    """
    directory = absolute(directory)
    kept = [
        policies.LatestN(keep),
        policies.BestN(n=1, get_metric_fn=_rank, keep_checkpoints_without_metrics=False),
    ]
    if keep_every:
        kept.append(policies.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(kept),
        best_fn=_rank,  # has Orbax write the scores
        cleanup_tmp_directories=True,  # of a run that was killed while saving
    )
    try:
        manager = ocp.CheckpointManager(directory, options=options)
        if jax.process_index() == 0:
            probe = directory / ".writable"
            probe.write_text("")
            probe.unlink()
    except OSError as error:
        raise ValueError(f"checkpoint directory {directory} cannot be created or written: {error}") from error
    return manager


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    spec: ModelSpec,
    *,
    scores: Mapping[str, float] | None = None,
) -> None:
    """Start writing the state after `state.step` steps; a step that has been saved is left as it is.

    Args:
      manager: of the directory.
      state: what to save.
      spec: its network.
      scores: of the state, if they are known.

    Raises:
      OSError: this checkpoint, or the one before that was still being written, cannot be written.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    progress, averages = _progress(state), {}
    if state.ema is not None:
        averages["ema"] = ocp.args.StandardSave(state.ema)
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        progress=ocp.args.StandardSave(progress),
        model=ocp.args.JsonSave(dataclasses.asdict(spec)),
        **averages,
    )
    _write(manager, lambda: manager.save(step, args=items, metrics=scores and dict(scores), force=True))


def finish(manager: ocp.CheckpointManager) -> None:
    """Wait until everything is written.

    Raises:
      OSError: something cannot be written.
    """
    _write(manager, manager.wait_until_finished)


def restore_latest(
    manager: ocp.CheckpointManager, described: TrainState, spec: ModelSpec, *, last: int | None = None
) -> TrainState:
    """Return the newest saved state that can be read.

    A damaged checkpoint is renamed to `damaged-STEP`, with a warning, and the one before is taken.

    Args:
      manager: of a directory that holds a checkpoint.
      described: shape, dtype and sharding of each array, on any mesh; see `train_state.describe`.
      spec: the network that is being trained.
      last: the newest step that may be taken; later checkpoints are deleted. None takes the newest.

    Raises:
      ValueError: the checkpoints are of another network, hold weights only, or none can be read.
    """
    steps = sorted(manager.all_steps())
    if last is not None:
        for step in [step for step in steps if step > last]:
            manager.delete(step)
        steps = [step for step in steps if step <= last]
        if not steps:
            raise ValueError(f"{manager.directory} has no checkpoint of step {last} or before")
    while True:
        step, failure = steps.pop(), None
        try:
            return _restore_state(manager, step, described, spec)
        except _UnreadableError as error:
            failure = error
        if not steps:
            raise failure
        _set_aside(manager, step, failure)


def _restore_state(manager, step, described, spec):
    """Returns the state of one step; on all processes or none."""
    state, failure = None, None
    try:
        _check_spec(_read_spec(manager, step), spec, manager.directory)
        found = _items(manager, step)
        if "progress" not in found:
            raise ValueError(
                f"{manager.directory} holds weights only, no training state; start from them in a new run: "
                f"--config.init_from={manager.directory}"
            )
        items = {"params": ocp.args.StandardRestore(described.params)}
        items["progress"] = ocp.args.StandardRestore(_progress(described))
        if described.ema is not None and "ema" in found:
            items["ema"] = ocp.args.StandardRestore(described.ema)
        restored = _restore(manager, step, ocp.args.Composite(**items), "training state")
        ema = None
        if described.ema is not None:  # an average that is new begins as the parameters
            ema = restored["ema"] if "ema" in items else jax.tree.map(lambda x: x.copy(), restored.params)
        state = TrainState(params=restored.params, ema=ema, **restored.progress)
    except _UnreadableError as error:
        failure = error
    if jax.process_count() > 1:
        readable = multihost_utils.process_allgather(np.array(failure is None))
        if not readable.all() and failure is None:
            failure = _UnreadableError(f"step {step} cannot be read by every process")
    if failure is not None:
        raise failure
    return state


def _set_aside(manager, step, failure):
    aside = absolute(manager.directory) / f"damaged-{step}"
    logging.warning("%s; it is kept as %s and the checkpoint before is taken", failure, aside)
    if jax.process_index() == 0:
        try:
            (absolute(manager.directory) / str(step)).rename(aside)
        except OSError as error:
            raise ValueError(f"{failure}; it cannot be renamed to {aside}: {error}") from error
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"set aside {step}")
    manager.reload()


def best(manager: ocp.CheckpointManager) -> tuple[int, dict[str, float]] | None:
    """Return the step and the scores of the kept checkpoint with the best score, None if none has scores."""
    scored = {step: scores for step in manager.all_steps() if (scores := manager.metrics(step))}
    if not scored:
        return None
    step = max(scored, key=lambda step: (_rank(scored[step]), step))
    return step, scored[step]


def save_params(directory: str | pathlib.Path, params: Any, spec: ModelSpec) -> None:
    """Write a checkpoint of weights alone, as step 0 of a directory.

    Raises:
      ValueError: the directory already holds a checkpoint, or cannot be created or written.
      OSError: the weights cannot be written.
    """
    with open_manager(directory) as manager:
        if manager.all_steps():
            raise ValueError(f"{manager.directory} already holds a checkpoint")
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params), model=ocp.args.JsonSave(dataclasses.asdict(spec))
        )
        _write(manager, lambda: manager.save(0, args=items))
        finish(manager)


def load_for_inference(
    directory: str | pathlib.Path,
    *,
    step: int | None = None,
    weights: str = "ema",
    sharding: Sharding | None = None,
) -> Restored:
    """Read the network and its parameters.

    Args:
      directory: a run, its `checkpoints` directory, one checkpoint of it, or converted weights.
      step: which checkpoint; None takes the newest, or the one that `directory` names.
      weights: 'ema', their average where the checkpoint has one, or 'raw', as they were trained.
      sharding: where the parameters go; None is the first device.

    Raises:
      ValueError: there is no such checkpoint, or it does not fit the network that it names.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is not one of {WEIGHTS}")
    root, named = _find_checkpoints(directory)
    with ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(create=False)) as manager:
        step = next((s for s in (step, named) if s is not None), manager.latest_step())
        if step not in manager.all_steps():
            raise ValueError(f"{root} has no checkpoint of step {step}; it has {sorted(manager.all_steps())}")
        spec = _read_spec(manager, step)
        sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        item = "ema" if weights == "ema" and "ema" in _items(manager, step) else "params"
        params = _restore_params(manager, step, item, spec, sharding)
    return Restored(spec.name, spec.fields, params, step)


def load_params(directory: str | pathlib.Path, spec: ModelSpec, sharding: Sharding) -> Any:
    """Read the parameters (their average where there is one) of a checkpoint of the network `spec`.

    Raises:
      ValueError: there is no checkpoint, or it is of another network.
    """
    restored = load_for_inference(directory, sharding=sharding)
    _check_spec(ModelSpec(restored.model_name, restored.model_kwargs), spec, directory)
    return restored.params


def absolute(directory: str | pathlib.Path) -> epath.Path:
    """Return an absolute path; with a scheme (gs://) it stays as it is."""
    path = epath.Path(directory).expanduser()
    return path if "://" in str(directory) else path.absolute()


class _UnreadableError(ValueError):
    """A checkpoint, or an item of it, cannot be read."""


def _rank(scores):
    score = scores.get(BEST_METRIC, -math.inf)
    return -math.inf if math.isnan(score) else score


def _progress(state):
    return {name: getattr(state, name) for name in ("step", "opt_state", "skipped", "rollbacks")}


def _restore_params(manager, step, item, spec, sharding):
    shapes = jax.eval_shape(lambda key: models.init_params(spec.build(), key), jax.random.key(0))
    described = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    items = ocp.args.Composite(**{item: ocp.args.StandardRestore(described)})
    return _restore(manager, step, items, "weights")[item]


def _restore(manager, step, items, what):
    try:
        return manager.restore(step, args=items)
    except Exception as error:  # Orbax and TensorStore raise kinds of their own, also bare Exception
        raise _UnreadableError(
            f"the {what} of step {step} in {manager.directory} cannot be read: {_shorten(error)}; if it "
            "is damaged, remove this step's directory and the one before is taken"
        ) from error


def _write(manager, write):
    try:
        write()
    except Exception as error:  # as above; a write in the background fails at the next call
        names = [child.name for child in absolute(manager.directory).iterdir()]
        steps = sorted(int(name) for name in names if name.isdigit())
        rest = f"the checkpoints of steps {steps} are whole" if steps else "there is no other checkpoint"
        raise OSError(
            f"a checkpoint in {manager.directory} cannot be written: {_shorten(error)}; {rest}"
        ) from error


def _shorten(error):
    """Returns the first line of a message; of a long one the beginning and the end, where the reason is."""
    line = str(error).strip().partition("\n")[0]
    return line if len(line) < 300 else f"{line[:120]} ... {line[-160:]}"


def _find_checkpoints(directory):
    """Returns the directory that holds checkpoints, and the step if `directory` is one of them."""
    directory = absolute(directory)
    if directory.name.isdigit() and (directory / "model").is_dir():
        return directory.parent, int(directory.name)
    for root in (directory, directory / "checkpoints"):
        if root.is_dir() and any(child.name.isdigit() for child in root.iterdir()):
            return root, None
    raise ValueError(
        f"{directory} holds no checkpoint: expected directories named by step, in it or in its 'checkpoints'"
    )


def _items(manager, step):
    return {child.name for child in (absolute(manager.directory) / str(step)).iterdir()}


def _read_spec(manager, step):
    if "model" not in _items(manager, step):
        raise ValueError(
            f"{manager.directory}/{step} is not a checkpoint of this project: it has no 'model' item"
        )
    items = ocp.args.Composite(model=ocp.args.JsonRestore())
    model = _restore(manager, step, items, "model item").model
    return ModelSpec(model["name"], model["fields"])


def _check_spec(found, wanted, directory):
    if found.name != wanted.name:
        raise ValueError(f"{directory} is a checkpoint of model {found.name}, not of {wanted.name}")
    ours, theirs = (_architecture(spec) for spec in (wanted, found))
    differing = [f"{key}={theirs[key]} (here {ours[key]})" for key in ours if ours[key] != theirs[key]]
    if differing:
        raise ValueError(f"{directory} is a checkpoint of another size: {', '.join(differing)}")


def _architecture(spec):
    """Returns the fields that decide the parameters, defaults filled in."""
    model = spec.build()
    fields = (
        f
        for f in model.__dataclass_fields__
        if f not in ("parent", "name", "dtype", "remat", "implementation")
    )
    return {f: getattr(model, f) for f in fields}
