"""Draws the curves of runs: `python -m stvsr_jax.plot RUN_DIR [RUN_DIR ...] [--metrics loss psnr_y] [--out FILE]`.

Reads RUN_DIR/metrics.csv, one scalar a row: step, name, value. Names that end alike (train/loss, validation/loss)
share a panel, and a bicubic baseline has that of its metric. A run that went on from a checkpoint has some steps
twice: the later rows are drawn. Of several runs each curve is named after its run, too.
"""

import argparse
import csv
import errno
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from stvsr_jax import command_line
from stvsr_jax.files import replacing
from stvsr_jax.parsers.plot import make_parser
from stvsr_jax.training.metric_writer import CSV_HEADER, METRICS_FILE

_COLUMNS = 3
# Height and width of a panel in inches.
_PANEL = (2.6, 4.2)
# A positive curve that covers more than this factor is drawn on a logarithmic axis.
_LOG_RANGE = 30.0


def read_metrics(path: str | os.PathLike) -> dict[str, dict[int, float]]:
    """Returns the curves of a metrics file: value by step, by name in the order of appearance.

    A last line without its end is left out: the run is writing it, or was killed while it did.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is empty, has another header, or a row is not one; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name the directory of a training run")
    try:
        lines = path.read_text().splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty; has the run written its first numbers yet?")
    rows = csv.reader(lines)
    if (header := next(rows)) != [*CSV_HEADER]:
        raise ValueError(
            f"{path}, line 1: the header is {','.join(header)!r}, it must be {','.join(CSV_HEADER)!r}"
        )
    curves = {}
    for number, row in enumerate(rows, 2):
        try:
            step, name, value = row
            step, value = int(step), float(value)
            if step < 0 or not name:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: {','.join(row)!r} is no step (a whole number from 0), name and value"
            ) from None
        curves.setdefault(name, {})[step] = value
    if not curves:
        raise ValueError(f"{path} has no rows yet")
    return curves


def metric_of(name: str) -> str:
    """Returns the panel of a curve: a baseline goes with what it is one for."""
    return name.rpartition("/")[2].removesuffix("_bicubic")


def read_runs(run_dirs: Sequence[Path], metrics: Sequence[str] | None) -> dict[str, dict[int, float]]:
    """Returns the curves of all runs, those of `metrics` alone if given.

    Raises:
      FileNotFoundError, ValueError: as from `read_metrics`, or runs of one name, or none has such a metric.
    """
    names = [run_dir.resolve().name for run_dir in run_dirs]
    if len(set(names)) < len(names):
        raise ValueError(f"the runs {', '.join(names)} need different names")
    curves = {}
    for name, run_dir in zip(names, run_dirs, strict=True):
        prefix = f"{name}/" if len(run_dirs) > 1 else ""
        curves |= {f"{prefix}{key}": values for key, values in read_metrics(run_dir / METRICS_FILE).items()}
    known = sorted({metric_of(name) for name in curves})
    for metric in metrics or ():
        if metric not in known:
            raise ValueError(f"metric {metric!r} is not one of {', '.join(known)}")
    if metrics is None:
        return curves
    return {
        name: values for metric in metrics for name, values in curves.items() if metric_of(name) == metric
    }


def draw_curves(curves: dict[str, dict[int, float]], path: str | os.PathLike, *, title: str) -> None:
    """Draws curves to a PNG file, which appears whole or not at all.

    Args:
      curves: from `read_metrics`.
      path: where to.
      title: above all panels.

    Raises:
      ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # an optional dependency
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install it with: pip install 'stvsr-jax[plot]'") from error

    panels = {}
    for name, values in curves.items():
        panels.setdefault(metric_of(name), {})[name] = dict(sorted(values.items()))
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_PANEL[1] * columns, _PANEL[0] * rows + 0.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (panel, lines) in zip(axes, panels.items(), strict=False):
        for name, values in lines.items():
            marker = "o" if len(values) < 40 else None
            axis.plot(
                list(values), list(values.values()), label=name, marker=marker, markersize=3, linewidth=1
            )
        finite = [v for values in lines.values() for v in values.values() if math.isfinite(v)]
        if finite and min(finite) > 0 and max(finite) > _LOG_RANGE * min(finite):
            axis.set_yscale("log")
        axis.set_title(panel, fontsize="medium")
        axis.set_xlabel("step")
        axis.locator_params(axis="x", nbins=5)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    for axis in figure.axes[len(panels) :]:
        axis.remove()
    with replacing(Path(path)) as draft:
        figure.savefig(draft, format="png", dpi=150)


def run(args: argparse.Namespace) -> None:
    """Draws what the command line says."""
    out = args.out or args.run_dirs[0] / "curves.png"
    if not out.name or out.exists() and not out.is_file():
        raise ValueError(f"out={out} is no file")
    if out.suffix.lower() != ".png":
        raise ValueError(f"out={out} must end in .png")
    curves = read_runs(args.run_dirs, args.metrics)
    if not out.parent.is_dir():
        raise ValueError(f"out={out}: {os.strerror(errno.ENOENT)}")
    draw_curves(curves, out, title=", ".join(map(str, args.run_dirs)))
    last = max(step for values in curves.values() for step in values)
    print(f"{out}: {len(curves)} curves up to step {last:,}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.plot"), run, argv)


if __name__ == "__main__":
    sys.exit(main())
