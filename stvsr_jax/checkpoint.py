"""Orbax checkpoints of a run.

A checkpoint holds four items: `params`, `progress` (optimiser state and counters), `data` (the position of
the input pipeline) and `model` (the network's name and sizes, JSON). Converted published weights hold only
`params` and `model`; training starts from them and inference runs them alike.
"""

import dataclasses
import pathlib
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding

from stvsr_jax import models
from stvsr_jax.train_state import TrainState


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


def open_manager(directory: str | pathlib.Path, *, keep: int | None = None) -> ocp.CheckpointManager:
    """Open (and create) a directory of checkpoints, written in the background, the last `keep` kept.

    Raises:
      ValueError: the directory cannot be created or written.
    """
    directory = _absolute(directory)
    try:
        return ocp.CheckpointManager(directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep))
    except OSError as error:
        raise ValueError(f"checkpoint directory {directory} cannot be created: {error}") from error


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    iterator: grain.DatasetIterator,
    spec: ModelSpec,
) -> None:
    """Start writing the state after `state.step` steps and the iterator that yields the next batch."""
    step = int(state.step)
    if step in manager.all_steps():
        return
    progress = {"step": state.step, "opt_state": state.opt_state, "skipped": state.skipped}
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        progress=ocp.args.StandardSave(progress),
        data=grain.checkpoint.CheckpointSave(iterator),
        model=ocp.args.JsonSave(dataclasses.asdict(spec)),
    )
    manager.save(step, args=items, force=True)


def restore_latest(
    manager: ocp.CheckpointManager,
    state: TrainState,
    iterator: grain.DatasetIterator,
    spec: ModelSpec,
) -> TrainState:
    """Return the newest saved state, placed as `state` is, and move the iterator to its position.

    Args:
      manager: of a directory that holds a checkpoint.
      state: a state of the same structure, for shapes and shardings.
      iterator: of the same input pipeline; it is changed.
      spec: the network that is being trained.

    Raises:
      ValueError: the checkpoint is of another network, holds weights only or cannot be read.
    """
    step = manager.latest_step()
    _check_spec(_read_spec(manager, step), spec, manager.directory)
    if "progress" not in _items(manager, step):
        raise ValueError(
            f"{manager.directory} holds weights only, no training state; start from them in a new run: "
            f"--config.init_from={manager.directory}"
        )
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    progress = {"step": abstract.step, "opt_state": abstract.opt_state, "skipped": abstract.skipped}
    items = ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params),
        progress=ocp.args.StandardRestore(progress),
        data=grain.checkpoint.CheckpointRestore(iterator),
    )
    restored = _restore(manager, step, items, "training state")
    return TrainState(params=restored.params, **restored.progress)


def save_params(directory: str | pathlib.Path, params: Any, spec: ModelSpec) -> None:
    """Write a checkpoint of weights alone, as step 0 of a directory.

    Raises:
      ValueError: the directory already holds a checkpoint.
    """
    with open_manager(directory) as manager:
        if manager.all_steps():
            raise ValueError(f"{manager.directory} already holds a checkpoint")
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params), model=ocp.args.JsonSave(dataclasses.asdict(spec))
        )
        manager.save(0, args=items)


def load_for_inference(
    directory: str | pathlib.Path, *, step: int | None = None, sharding: Sharding | None = None
) -> Restored:
    """Read the network and its parameters.

    Args:
      directory: a run, its `checkpoints` directory, or converted weights.
      step: which checkpoint; None takes the newest.
      sharding: where the parameters go; None is the first device.

    Raises:
      ValueError: there is no such checkpoint, or it does not fit the network that it names.
    """
    root = _find_checkpoints(directory)
    with ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(create=False)) as manager:
        step = manager.latest_step() if step is None else step
        if step not in manager.all_steps():
            raise ValueError(f"{root} has no checkpoint of step {step}; it has {sorted(manager.all_steps())}")
        spec = _read_spec(manager, step)
        sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params = restore_params(manager, step, spec, sharding)
    return Restored(spec.name, spec.fields, params, step)


def load_params(directory: str | pathlib.Path, spec: ModelSpec, sharding: Sharding) -> Any:
    """Read the parameters of a checkpoint that must be of the network `spec`.

    Raises:
      ValueError: there is no checkpoint, or it is of another network.
    """
    restored = load_for_inference(directory, sharding=sharding)
    _check_spec(ModelSpec(restored.model_name, restored.model_kwargs), spec, directory)
    return restored.params


def restore_params(manager, step: int, spec: ModelSpec, sharding: Sharding) -> Any:
    """Read the `params` item of one checkpoint."""
    shapes = jax.eval_shape(lambda key: models.init_params(spec.build(), key), jax.random.key(0))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    items = ocp.args.Composite(params=ocp.args.StandardRestore(abstract))
    return _restore(manager, step, items, "weights").params


def _restore(manager, step, items, what):
    try:
        return manager.restore(step, args=items)
    except Exception as error:  # Orbax, TensorStore and grain raise kinds of their own, also bare Exception
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the {what} of step {step} in {manager.directory} cannot be read: {reason:.300}; if it is "
            "damaged, remove this step's directory and the one before is taken"
        ) from error


def _find_checkpoints(directory):
    directory = _absolute(directory)
    for root in (directory, directory / "checkpoints"):
        if root.is_dir() and any(child.name.isdigit() for child in root.iterdir()):
            return root
    raise ValueError(
        f"{directory} holds no checkpoint: expected directories named by step, in it or in its 'checkpoints'"
    )


def _absolute(directory):
    path = epath.Path(directory).expanduser()  # understands gs:// as Orbax does
    return path if "://" in str(directory) else path.absolute()


def _items(manager, step):
    return {child.name for child in (_absolute(manager.directory) / str(step)).iterdir()}


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
