"""Where a run's numbers go: metrics.csv, TensorBoard, and a progress bar or plain log lines."""

import csv
import io
import pathlib
import sys
from collections.abc import Mapping

import numpy as np
import tensorboardX
from absl import logging
from etils import epath
from tqdm import tqdm

METRICS_FILE = "metrics.csv"
CSV_HEADER = ("step", "name", "value")


class MetricWriter:
    """Writes scalars and pictures of a run; only the first process of several does. Use as a context manager."""

    def __init__(self, workdir: str | pathlib.Path, *, first_step: int, num_steps: int, is_writer: bool):
        """Starts reporting.

        Args:
          workdir: of the run; gets `metrics.csv` and `tensorboard/`. Rows of a resumed run that are later than
            `first_step` are dropped.
          first_step: steps already taken.
          num_steps: steps of the whole run.
          is_writer: whether this process reports at all.
        """
        self._scalars = self._csv = None
        if is_writer:
            folder = epath.Path(workdir)
            folder.mkdir(parents=True, exist_ok=True)
            self._csv = folder / METRICS_FILE
            self._is_object = "://" in str(
                self._csv
            )  # in a bucket: written anew each time, whole or not at all
            self.rewind(first_step)
            self._scalars = tensorboardX.SummaryWriter(
                str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None
            )
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=not (is_writer and on_terminal),
        )
        self._lines = is_writer and not on_terminal

    def rewind(self, step: int) -> None:
        """Drops the rows of `metrics.csv` that are of later steps, or were cut off."""
        if self._csv:
            self._text = _format_rows(_read_rows(self._csv, last=step), header=True)
            if self._is_object:
                self._csv.write_text(self._text)
            else:  # a run that is killed meanwhile keeps its numbers
                draft = self._csv.with_name(f".{METRICS_FILE}.draft")
                draft.write_text(self._text)
                draft.replace(self._csv)

    def _append(self, rows):
        if self._is_object:
            self._text += rows
            self._csv.write_text(self._text)
        else:
            with self._csv.open("a") as file:
                file.write(rows)

    def progress(self, step: int, numbers: Mapping[str, float]) -> None:
        """Shows numbers beside the bar after `step` steps; cheap, for every step."""
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
        """Records numbers after `step` steps, and prints them as a line where there is no bar.

        Args:
          step: steps taken.
          numbers: by name.
          eta: seconds until the run ends, for the line.
          announce: print the line above the bar, too.
        """
        if self._scalars:
            self._append(_format_rows((step, name, f"{value:.9g}") for name, value in numbers.items()))
            for name, value in numbers.items():
                self._scalars.add_scalar(name, value, step)
            self._scalars.flush()
        if self._lines or announce:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            self.say(
                f"step {step}/{self._bar.total}  {shown}" + (f"  eta {format_seconds(eta)}" if eta else "")
            )

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Records a picture [H, W, 3], uint8, in TensorBoard."""
        if self._scalars:
            self._scalars.add_image(name, image, step, dataformats="HWC")
            self._scalars.flush()

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
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


def format_seconds(seconds: float) -> str:
    """Returns h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _read_rows(path, last):
    """Returns the rows of whole lines up to a step."""
    text = path.read_text() if path.exists() else ""
    rows = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    return [row for row in rows if len(row) == 3 and row[0].isdigit() and int(row[0]) <= last]


def _format_rows(rows, header=False):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([CSV_HEADER, *rows] if header else rows)
    return buffer.getvalue()
