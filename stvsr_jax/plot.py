"""Draws the curves of a run: `python -m stvsr_jax.plot RUN_DIR [--out curves.png]`.

Reads RUN_DIR/metrics.csv, one scalar a row: step, name, value. Names that end alike (train/loss, validation/loss)
share a panel, and a bicubic baseline has that of its metric. A run that went on from a checkpoint has some steps twice: the later rows are drawn.
"""

import argparse
import csv
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

METRICS_FILE = "metrics.csv"
HEADER = ["step", "name", "value"]
_COLUMNS = 3
# Height and width of a panel in inches.
_PANEL = (2.6, 4.2)
# A positive curve that covers more than this factor is drawn on a logarithmic axis.
_LOG_RANGE = 30.0


def read_metrics(path: str | os.PathLike) -> dict[str, dict[int, float]]:
    """Return the curves of a metrics file: value by step, by name in the order of appearance.

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
    if (header := next(rows)) != HEADER:
        raise ValueError(
            f"{path}, line 1: the header is {','.join(header)!r}, it must be {','.join(HEADER)!r}"
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


def draw_curves(curves: dict[str, dict[int, float]], path: str | os.PathLike, *, title: str) -> None:
    """Draw curves to a PNG file, which appears whole or not at all.

    Args:
      curves: from `read_metrics`.
      path: where to.
      title: above all panels.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # an optional dependency

    panels = {}
    for name, values in curves.items():
        metric = name.rpartition("/")[2].removesuffix("_bicubic")  # the baseline goes with what it is one for
        panels.setdefault(metric, {})[name] = dict(sorted(values.items()))
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
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        figure.savefig(draft, format="png", dpi=150)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="stvsr_jax.plot", description=__doc__.split("\n\n")[0])
    parser.add_argument("run_dir", type=Path, help="directory of a training run")
    parser.add_argument("--out", type=Path, help="PNG file to write; default: RUN_DIR/curves.png")
    args = parser.parse_args(argv)
    out = args.out or args.run_dir / "curves.png"
    try:
        curves = read_metrics(args.run_dir / METRICS_FILE)
        draw_curves(curves, out, title=str(args.run_dir))
    except ModuleNotFoundError as error:
        print(f"error: {error}; install it with: pip install 'stvsr-jax[plot]'", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    last = max(step for values in curves.values() for step in values)
    print(f"{out}: {len(curves)} curves up to step {last:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
