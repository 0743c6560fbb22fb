"""The loop of a run: steps, reports, scores, checkpoints; stop signals and divergence."""

import contextlib
import time
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from stvsr_jax import checkpoint, command_line
from stvsr_jax.runtime import compilation, distributed, sharding
from stvsr_jax.training import checkpoints, panels, validation
from stvsr_jax.training.metric_writer import MetricWriter, format_seconds
from stvsr_jax.training.run import Run
from stvsr_jax.training.train_state import TrainState
from stvsr_jax.training.train_step import make_offset_probe, make_train_step


class Services(NamedTuple):
    """What a running loop writes to and listens to.

    Attributes:
      manager: of the checkpoints.
      writer: of the numbers.
      stop: whether the run has been asked to stop.
    """

    manager: ocp.CheckpointManager
    writer: MetricWriter
    stop: distributed.StopRequest


def train(run: Run, state: TrainState, services: Services) -> dict[str, float]:
    """Trains until the last step and returns the last scores.

    Args:
      run: what to train; from `train.prepare`.
      state: to begin or go on with; it is consumed.
      services: of the run.

    Raises:
      FloatingPointError: too many losses or gradients in a row were not finite, and going back did not help.
      command_line.StoppedError: the run was asked to stop, and has saved its state.
      OSError: a checkpoint or a number cannot be written.
    """
    manager, writer, stop = services
    train_step = make_train_step(
        run.model,
        run.optimizer,
        run.loss,
        run.mesh,
        micro_batches=run.loop.micro_batches,
        ema_decay=run.optimizer_config.ema_decay,
        rollback_rate=run.loop.rollback_rate,
        compiler_options=compilation.options(concurrent=run.loop.concurrent_kernels),
    )
    report = _Report(run, writer)
    watch, last, began = _Watch(), run.loop.num_steps, time.perf_counter()
    step = first = int(state.step)
    scores = {}
    is_due = False  # stays true while a save is put off, because steps are being skipped
    if first >= last:  # the run had ended
        scores = report.score(state)
    elif (
        first and first % run.loop.eval_every == 0 and not manager.metrics(first)
    ):  # it was stopped before its scores
        with stop.answered_by(lambda: _stop(run, state, services)):
            scores = report.evaluate(state)
    batches = run.datasets.train.start_at(step)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: batches.close())  # whichever it is by then: going back opens others
        while step < last:
            step += 1
            is_last = step == last
            is_logged = step % run.loop.log_every == 0 or is_last
            batch = sharding.to_global(next(batches), run.mesh)
            # Compiling may take minutes. A signal that comes meanwhile saves and stops at once: no step is under way.
            if watch.is_new(batch["target"].shape):
                with stop.answered_by(lambda: _stop(run, state, services)):  # noqa: B023 - called inside alone
                    train_step.prepare(state, batch)
            # Returns before the step has run. Its numbers are read one step later, so the device always has work queued.
            state, numbers = train_step(state, batch)
            watch.add(step, numbers, batch["target"].shape, wait=is_logged)
            if watch.is_diverged(run.loop.max_skipped_steps):
                state = _go_back(run, state, watch, report.offsets(state, batch), services)
                step = int(state.step)
                batches.close()
                # A batch is a function of the seed and its number: the same ones come again.
                batches = run.datasets.train.start_at(step)
                watch = _Watch()
                continue
            if stop.is_due(step):
                _stop(run, state, services)
            writer.progress(step, watch.shown())
            if is_logged:
                report.log(step, watch, state, batch)
            is_due = is_due or step % run.loop.checkpoint_every == 0 or is_last
            # A checkpoint made while steps are skipped is no use to go back to, and would push out an older, good one.
            is_saved = is_last or is_due and not watch.is_skipping()
            # Neither scoring nor saving counts as time of steps.
            with watch.paused():
                is_scored = step % run.loop.eval_every == 0 or is_last
                if is_scored:
                    with stop.answered_by(lambda: _stop(run, state, services)):  # noqa: B023 - called inside alone
                        scores = report.evaluate(state)
                if is_saved:
                    checkpoints.save(manager, state, run.spec, scores=scores if is_scored else None)
                    is_due = False
        checkpoints.finish(manager)
    _summarise(scores, last - first, time.perf_counter() - began, services)
    return scores


def _stop(run, state, services):
    checkpoints.save(services.manager, state, run.spec)
    checkpoints.finish(services.manager)
    name = "Ctrl-C" if services.stop.signal_number == 2 else "SIGTERM"
    raise command_line.StoppedError(
        f"stopped by {name} after step {int(state.step)}, which is saved in {services.manager.directory}; "
        "the same command goes on from there",
        services.stop.signal_number,
    )


def _go_back(run, state, watch, offsets, services):
    """Returns the newest saved state from before the steps that were skipped, else this one, with a lower learning rate."""
    step, streak = watch.step, watch.skipped_in_a_row
    rows, first = run.batch_size, step - streak
    reach = (
        ", ".join(f"{name} {value:.3g}" for name, value in offsets.items()) or "no deformable convolutions"
    )
    cause = (
        f"step {step}: the last {streak} losses or gradients were not finite and their updates were skipped; "
        f"batches {first} to {step - 1}, samples {first * rows} to {step * rows - 1}; "
        f"mean absolute offset in pixels: {reach}"
    )
    rollbacks = int(state.rollbacks)
    checkpoints.finish(services.manager)
    if rollbacks >= run.loop.max_rollbacks:
        tried = f" after going back {rollbacks} times" if rollbacks else ""
        raise FloatingPointError(
            f"{cause}; stopped{tried}. Lower optimizer.learning_rate or set optimizer.clip_norm"
        )
    where = "back to"
    if any(s <= first for s in services.manager.all_steps()):
        state = checkpoints.restore_latest(services.manager, run.describe_state(), run.spec, last=first)
    else:  # skipped steps have changed nothing but their counter
        where = "no checkpoint is older; on from"
    # The same arrays on all processes, laid out as the state's scalars are.
    zero, count = (jax.device_put(np.int32(n), sharding.replicated(run.mesh)) for n in (0, rollbacks + 1))
    state = state.replace(skipped=zero, rollbacks=count)
    checkpoints.save(services.manager, state, run.spec)  # unless it is there
    checkpoints.finish(services.manager)
    checkpoints.note_rollback(services.manager, int(state.step), rollbacks + 1)
    factor = run.loop.rollback_rate ** (rollbacks + 1)
    services.writer.rewind(int(state.step))
    services.writer.say(
        f"{cause}; {where} step {int(state.step)}, learning rate from now on times {factor:.4g}"
    )
    return state


def _summarise(scores, steps, seconds, services):
    manager, writer, _ = services
    names = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
    writer.say(f"done: {steps} steps in {format_seconds(seconds)}; last scores: {names}")
    if found := checkpoints.best(manager):
        step, best = found
        value = best[checkpoint.BEST_METRIC]
        writer.say(f"best {checkpoint.BEST_METRIC} of those kept: {value:.3f}, {manager.directory}/{step}")
    writer.say(f"checkpoints of steps {sorted(manager.all_steps())} in {manager.directory}")


class _Report:
    """Scores, offsets, pictures and averages of a run, to its writer."""

    def __init__(self, run, writer):
        self._run, self._writer = run, writer
        self._eval_step = validation.make_eval_step(run.model, run.mesh)
        self._panel_step = panels.make_panel_step(run.model, run.mesh)
        self._probe = make_offset_probe(run.model, run.mesh)

    def score(self, state):
        """Returns the scores of the state."""
        return validation.score(
            self._eval_step, state.best_params, self._run.datasets.validation, self._run.mesh
        )

    def evaluate(self, state):
        """Scores the state, writes the scores and some pictures, and returns the scores."""
        run, params, step = self._run, state.best_params, int(state.step)
        scores = self.score(state)
        self._writer.write(step, {f"validation/{name}": v for name, v in scores.items()}, announce=True)
        shown = panels.render(
            self._panel_step, params, run.datasets.validation, run.mesh, count=run.loop.num_panels
        )
        for number, panel in enumerate(shown):
            self._writer.write_image(step, f"validation/{number}", panel)
        return scores

    def offsets(self, state, batch):
        """Returns the mean absolute offsets of the deformable convolutions on a batch."""
        return {k: float(v) for k, v in self._probe(state.params, batch["frames"]).items()}

    def log(self, step, watch, state, batch):
        """Writes the averages since the last time."""
        averages = watch.averages()
        if averages:
            eta = averages.get("step_seconds", 0.0) * (self._run.loop.num_steps - step)
            with watch.paused():
                averages |= self.offsets(state, batch)
            self._writer.write(step, {f"train/{name}": value for name, value in averages.items()}, eta=eta)


class _Watch:
    """The metrics since the last log line, read one step late so that the device never waits for the host.

    So divergence is noticed one step late, too.
    """

    def __init__(self):
        self._pending, self._shapes, self._last = None, set(), None
        self.step = self.skipped_in_a_row = 0
        self._restart()

    def _restart(self):
        self._numbers, self._seconds, self._timed, self._began = [], 0.0, 0, time.perf_counter()

    def add(self, step, numbers, shape, *, wait):
        """Takes the metrics of a step that is still running, and reads those of the step before.

        The first step of a shape is compiled: it is waited for at once, and its time is in no average.

        Args:
          step: its number.
          numbers: its metrics, on the device.
          shape: of its batch.
          wait: whether to wait for this step as well.
        """
        self._read()
        self._pending = step, numbers
        if shape not in self._shapes:
            self._shapes.add(shape)
            self._read(is_timed=False)
        elif wait:
            self._read()

    def _read(self, is_timed=True):
        if self._pending is None:
            return
        self.step, numbers = self._pending
        self._last = {key: float(value) for key, value in jax.device_get(numbers).items()}
        self.skipped_in_a_row = int(self._last["skipped_in_a_row"])
        self._numbers.append(self._last)
        self._pending = None
        now = time.perf_counter()
        if is_timed:
            self._seconds, self._timed = self._seconds + now - self._began, self._timed + 1
        self._began = now

    @contextlib.contextmanager
    def paused(self):
        """Leaves out the time spent inside."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def is_new(self, shape):
        """Whether no step of a shape was added, so that it may have to be compiled."""
        return shape not in self._shapes

    def is_skipping(self):
        """Whether the newest step was skipped; waits for it."""
        self._read()
        return self.skipped_in_a_row > 0

    def is_diverged(self, max_skipped_steps):
        """Whether the last steps known were all skipped."""
        return self.skipped_in_a_row >= max_skipped_steps

    def shown(self):
        """Returns what the progress bar shows."""
        return {key: self._last[key] for key in ("loss", "psnr")} if self._last else {}

    def averages(self):
        """Returns the mean of each metric over the steps known since the last call, {} without steps.

        Only `skipped` counts the steps that were; the rest would not be finite. The learning rate is the last.
        """
        if not self._numbers:
            return {}
        taken = [n for n in self._numbers if not n["skipped"]] or self._numbers
        means = {key: sum(n[key] for n in taken) / len(taken) for key in self._last}
        means["skipped"] = sum(n["skipped"] for n in self._numbers) / len(self._numbers)
        means["skipped_in_a_row"] = self._last["skipped_in_a_row"]
        means["learning_rate"] = self._last["learning_rate"]
        if self._timed:
            means["step_seconds"] = self._seconds / self._timed
        self._restart()
        return means
