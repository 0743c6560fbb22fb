"""The checkpoints of a run: saved in the background, restored exactly and on any mesh; format in `checkpoint`.

The position in the data is the step, so the state is all that there is to save.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from stvsr_jax import checkpoint
from stvsr_jax.training.train_state import TrainState


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    spec: checkpoint.ModelSpec,
    *,
    scores: Mapping[str, float] | None = None,
) -> None:
    """Starts writing the state after `state.step` steps; a step that has been saved is left as it is.

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
    checkpoint.write(
        manager, lambda: manager.save(step, args=items, metrics=scores and dict(scores), force=True)
    )


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits until everything is written.

    Raises:
      OSError: something cannot be written.
    """
    checkpoint.write(manager, manager.wait_until_finished)


def restore_latest(
    manager: ocp.CheckpointManager,
    described: TrainState,
    spec: checkpoint.ModelSpec,
    *,
    last: int | None = None,
) -> TrainState:
    """Returns the newest saved state that can be read.

    A damaged checkpoint is renamed to `damaged-STEP`, with a warning, and the one before is taken. One that cannot be
    read for another reason, or for one that is not known, stays as it is: going on without it would lose steps.

    Args:
      manager: of a directory that holds a checkpoint.
      described: shape, dtype and sharding of each array, on any mesh; see `train_state.describe`.
      spec: the network that is being trained.
      last: the newest step that may be taken, None for any.

    Raises:
      ValueError: the checkpoints are of another network, hold weights only, or none can be read, or the newest cannot
        though nothing shows that it is damaged.
    """
    steps = sorted(manager.all_steps())
    if last is not None:
        steps = [step for step in steps if step <= last]
        if not steps:
            raise ValueError(f"{manager.directory} has no checkpoint of step {last} or before")
    while True:
        step, failure = steps.pop(), None
        try:
            return _restore_state(manager, step, described, spec)
        except checkpoint.DamagedError as error:
            failure = error
        if not steps:
            raise failure
        _set_aside(manager, step, failure)


def remove_surplus(manager: ocp.CheckpointManager, *, keep: int, keep_every: int) -> None:
    """Removes the checkpoints that the rule does not keep: a run killed right after a save leaves the one that it replaces.

    Call it once a state is restored: if the newest checkpoint is damaged, the run needs the one before.

    Args:
      manager: of the directory, opened with the same rule.
      keep: how many of the newest stay, besides the one with the best score.
      keep_every: checkpoints of multiples of this step stay, too; 0 for none.
    """
    found = [_Scored(step, manager.metrics(step)) for step in sorted(manager.all_steps())]
    rule = checkpoint.retention(keep=keep, keep_every=keep_every)
    stays = rule.should_preserve(found, context=policies.PreservationContext())
    if jax.process_count() > 1:  # no process still reads scores
        multihost_utils.sync_global_devices("surplus checkpoints")
    for info in (info for info, is_kept in zip(found, stays, strict=True) if not is_kept):
        manager.delete(info.step)


class _Scored(NamedTuple):
    """The part of a checkpoint that the rule reads."""

    step: int
    metrics: Mapping[str, float] | None


def note_rollback(manager: ocp.CheckpointManager, step: int, count: int) -> None:
    """Records that a run goes on from a checkpoint having diverged `count` times; later ones are deleted.

    The restored state then counts them, also of a run that is killed before its next checkpoint.
    """
    if jax.process_index() == 0:
        file = _rollback_file(manager, step)
        draft = file.parent / f"{file.name}.draft"
        draft.write_text(str(count))
        draft.replace(file)  # before anything is deleted
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"rollback to {step}")
    for later in [s for s in manager.all_steps() if s > step]:
        manager.delete(later)


def _rollback_file(manager, step):
    return checkpoint.absolute(manager.directory) / str(step) / "rollbacks"


def _noted_rollbacks(manager, step):
    file = _rollback_file(manager, step)
    return int(file.read_text()) if file.exists() else 0


def _restore_state(manager, step, described, spec):
    """Returns the state of one step; on all processes or none."""
    state, failure = None, None
    try:
        checkpoint.check_spec(checkpoint.read_spec(manager, step), spec, manager.directory)
        found = checkpoint.list_items(manager, step)
        if "progress" not in found:
            raise ValueError(
                f"{manager.directory} holds weights only, no training state; start from them in a new run: "
                f"--config.init_from={manager.directory}"
            )
        items = {"params": ocp.args.StandardRestore(described.params)}
        items["progress"] = ocp.args.StandardRestore(_progress(described))
        if described.ema is not None and "ema" in found:
            items["ema"] = ocp.args.StandardRestore(described.ema)
        restored = checkpoint.restore_items(manager, step, ocp.args.Composite(**items), "training state")
        ema = None
        if described.ema is not None:  # an average that is new begins as the parameters
            ema = restored["ema"] if "ema" in items else jax.tree.map(lambda x: x.copy(), restored.params)
        state = TrainState(params=restored.params, ema=ema, **restored.progress)
        state = state.replace(rollbacks=jnp.maximum(state.rollbacks, _noted_rollbacks(manager, step)))
    except checkpoint.UnreadableError as error:
        failure = error
    if jax.process_count() > 1:
        is_damaged = isinstance(failure, checkpoint.DamagedError)
        found = np.array([failure is None, failure is None or is_damaged])
        readable, explained = multihost_utils.process_allgather(found).reshape(-1, 2).all(axis=0)
        if not readable and (failure is None or is_damaged and not explained):
            kind = checkpoint.DamagedError if explained else checkpoint.UnreadableError
            failure = kind(f"step {step} in {manager.directory} cannot be read by every process")
    if failure is not None:
        raise failure
    return state


def _set_aside(manager, step, failure):
    aside = checkpoint.absolute(manager.directory) / f"damaged-{step}"
    logging.warning("%s; it is kept as %s and the checkpoint before is taken", failure, aside)
    if jax.process_index() == 0:
        try:
            (checkpoint.absolute(manager.directory) / str(step)).rename(aside)
        except OSError as error:
            raise ValueError(f"{failure}; it cannot be renamed to {aside}: {error}") from error
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"set aside {step}")
    manager.reload()


def best(manager: ocp.CheckpointManager) -> tuple[int, dict[str, float]] | None:
    """Returns the step and the scores of the kept checkpoint with the best score, None if none has scores."""
    scored = {step: scores for step in manager.all_steps() if (scores := manager.metrics(step))}
    if not scored:
        return None
    step = max(scored, key=lambda step: (checkpoint.rank(scored[step]), step))
    return step, scored[step]


def _progress(state):
    return {name: getattr(state, name) for name in ("step", "opt_state", "skipped", "rollbacks")}
