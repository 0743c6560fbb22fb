"""Where a run's numbers go: TensorBoard scalars, and a progress bar or plain log lines."""

import pathlib
import sys
from collections.abc import Mapping

import tensorboardX
from absl import logging
from tqdm import tqdm


class MetricWriter:
    """Writes scalars of a run; only the first process of several does. Use as a context manager."""

    def __init__(self, directory: str | pathlib.Path, *, first_step: int, num_steps: int, is_writer: bool):
        """Start reporting.

        Args:
          directory: for the TensorBoard event file.
          first_step: steps already taken.
          num_steps: steps of the whole run.
          is_writer: whether this process reports at all.
        """
        self._scalars = tensorboardX.SummaryWriter(str(directory)) if is_writer else None
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=not (is_writer and on_terminal),
        )
        self._lines = is_writer and not on_terminal

    def progress(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers beside the bar after `step` steps; cheap, for every step."""
        if numbers:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()}, refresh=False)
        self._bar.update(step - self._bar.n)

    def write(
        self,
        step: int,
        numbers: Mapping[str, float],
        *,
        eta: float | None = None,
        announce: bool = False,
    ) -> None:
        """Record numbers after `step` steps, and print them as a line where there is no bar.

        Args:
          step: steps taken.
          numbers: by name.
          eta: seconds until the run ends, for the line.
          announce: print the line above the bar, too.
        """
        if self._scalars:
            for name, value in numbers.items():
                self._scalars.add_scalar(name, value, step)
            self._scalars.flush()
        if self._lines or announce:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self.say(f"step {step}/{self._bar.total}  {shown}" + (f"  eta {_duration(eta)}" if eta else ""))

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        if self._lines:
            print(line, flush=True)
        elif not self._bar.disable:
            self._bar.write(line)
        else:
            logging.debug(line)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()
        if self._scalars:
            self._scalars.close()


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
