"""Orbax checkpoints: what is in one, opening a directory of them, and weights without a run.

A checkpoint is a directory named by its step, with the items `params`, `ema` (their average, where there is one),
`progress` (optimiser state and counters) and `model` (the network's name and sizes, JSON); scores are its metrics.
The position in the data is the step. Converted published weights hold only `params` and `model`; training starts
from them and inference runs them alike. Directories may be local or anything that etils.epath reads, as gs://.
"""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Sharding
from orbax.checkpoint import checkpoint_managers as policies

from stvsr_jax import checkpoint_damage, models
from stvsr_jax.models.spec import ModelSpec, Restored

BEST_METRIC = "psnr_y"  # the checkpoint with the highest is kept
WEIGHTS = ("ema", "raw")


def open_manager(
    directory: str | pathlib.Path, *, keep: int | None = None, keep_every: int = 0
) -> ocp.CheckpointManager:
    """Opens (and creates) a directory of checkpoints, written in the background.

    Args:
      directory: of the checkpoints.
      keep: how many of the newest stay, besides the one with the best score; None keeps all.
      keep_every: checkpoints of multiples of this step stay, too; 0 for none.

    Raises:
      ValueError: the directory cannot be created or written.
    """
    directory = absolute(directory)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=retention(keep=keep, keep_every=keep_every),
        best_fn=rank,  # has Orbax write the scores
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


def retention(*, keep: int | None, keep_every: int) -> policies.PreservationPolicy:
    """Returns the rule of which checkpoints stay; arguments as for `open_manager`."""
    kept = [
        policies.LatestN(keep),
        policies.BestN(n=1, get_metric_fn=rank, keep_checkpoints_without_metrics=False),
    ]
    if keep_every:
        kept.append(policies.EveryNSteps(keep_every))
    return policies.AnyPreservationPolicy(kept)


def save_params(directory: str | pathlib.Path, params: Any, spec: ModelSpec) -> None:
    """Writes a checkpoint of weights alone, as step 0 of a directory.

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
        write(manager, lambda: manager.save(0, args=items))
        write(manager, manager.wait_until_finished)


def load_for_inference(
    directory: str | pathlib.Path,
    *,
    step: int | None = None,
    weights: str = "ema",
    sharding: Sharding | None = None,
) -> Restored:
    """Reads the network and its parameters.

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
        spec = read_spec(manager, step)
        sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        item = "ema" if weights == "ema" and "ema" in list_items(manager, step) else "params"
        params = _restore_params(manager, step, item, spec, sharding)
    return Restored(spec.name, spec.fields, params, step)


def load_params(directory: str | pathlib.Path, spec: ModelSpec, sharding: Sharding) -> Any:
    """Reads the parameters (their average where there is one) of a checkpoint of the network `spec`.

    Raises:
      ValueError: there is no checkpoint, or it is of another network.
    """
    restored = load_for_inference(directory, sharding=sharding)
    check_spec(ModelSpec(restored.model_name, restored.model_kwargs), spec, directory)
    return restored.params


def absolute(directory: str | pathlib.Path) -> epath.Path:
    """Returns an absolute path; with a scheme (gs://) it stays as it is."""
    path = epath.Path(directory).expanduser()
    return path if "://" in str(directory) else path.absolute()


class UnreadableError(ValueError):
    """A checkpoint, or an item of it, cannot be read."""


class DamagedError(UnreadableError):
    """A checkpoint cannot be read, and what it says shows that its files are damaged or missing."""


def rank(scores: Mapping[str, float]) -> float:
    """Returns what the best checkpoint has the highest of."""
    score = scores.get(BEST_METRIC, -math.inf)
    return -math.inf if math.isnan(score) else score


def _restore_params(manager, step, item, spec, sharding):
    shapes = jax.eval_shape(lambda key: models.init_params(spec.build(), key), jax.random.key(0))
    described = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    items = ocp.args.Composite(**{item: ocp.args.StandardRestore(described)})
    return restore_items(manager, step, items, "weights")[item]


def restore_items(
    manager: ocp.CheckpointManager, step: int, items: ocp.args.Composite, what: str
) -> ocp.args.Composite:
    """Reads items of one checkpoint.

    Raises:
      DamagedError: naming `what`, the step and the reason, which is in the files.
      UnreadableError: the same, and it may be elsewhere: too little memory, no threads, a server that does not answer.
    """
    try:
        return manager.restore(step, args=items)
    except Exception as error:  # Orbax and TensorStore raise kinds of their own, also bare Exception
        folder = absolute(manager.directory) / str(step)
        kind = DamagedError if checkpoint_damage.is_shown_by(error, folder) else UnreadableError
        raise kind(
            f"the {what} of step {step} in {manager.directory} cannot be read: {_shorten(error)}; if it "
            "is damaged, remove this step's directory and the one before is taken"
        ) from error


def write(manager: ocp.CheckpointManager, action: Callable[[], Any]) -> None:
    """Runs an action that writes checkpoints.

    Raises:
      OSError: it failed, in one line that says which checkpoints are whole.
    """
    try:
        action()
    except Exception as error:  # as above; a write in the background fails at the next call
        names = [child.name for child in absolute(manager.directory).iterdir()]
        steps = sorted(int(name) for name in names if name.isdigit())
        rest = f"the checkpoints of steps {steps} are whole" if steps else "there is no other checkpoint"
        raise OSError(
            f"a checkpoint in {manager.directory} cannot be written: {_shorten(error)}; {rest}"
        ) from error


def _shorten(error):
    """Returns the first line of a message; of a long one the beginning and the reason: a system error or the end."""
    line = str(error).strip().partition("\n")[0]
    if len(line) < 300:
        return line
    code = re.search(r"os_error_code='(\d+)'", line)  # TensorStore's, amid its settings
    return f"{line[:120]} ... {os.strerror(int(code[1])) if code else line[-160:]}"


def has_checkpoint(directory: str | pathlib.Path) -> bool:
    """Returns whether a directory is a checkpoint or holds one."""
    try:
        return bool(_find_checkpoints(directory))
    except ValueError:
        return False


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


def list_items(manager: ocp.CheckpointManager, step: int) -> set[str]:
    """Returns the names of a checkpoint's items."""
    return {child.name for child in (absolute(manager.directory) / str(step)).iterdir()}


def read_spec(manager: ocp.CheckpointManager, step: int) -> ModelSpec:
    """Reads which network a checkpoint is of.

    Raises:
      UnreadableError: it cannot be read.
      ValueError: the checkpoint is not of this project.
    """
    if "model" not in list_items(manager, step):
        raise ValueError(
            f"{manager.directory}/{step} is not a checkpoint of this project: it has no 'model' item"
        )
    items = ocp.args.Composite(model=ocp.args.JsonRestore())
    model = restore_items(manager, step, items, "model item").model
    return ModelSpec(model["name"], model["fields"])


def check_spec(found: ModelSpec, wanted: ModelSpec, directory: str | pathlib.Path) -> None:
    """Raises ValueError if the checkpoints of a directory are of another network than the one wanted."""
    if found.name != wanted.name:
        raise ValueError(f"{directory} is a checkpoint of model {found.name}, not of {wanted.name}")
    # Not the fields as they were written: a default may be left out, and how a network is run (dtype, remat) may differ.
    ours, theirs = wanted.architecture(), found.architecture()
    differing = [f"{key}={theirs[key]} (here {ours[key]})" for key in ours if ours[key] != theirs[key]]
    if differing:
        raise ValueError(f"{directory} is a checkpoint of another size: {', '.join(differing)}")
