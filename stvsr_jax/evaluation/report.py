"""Tables of evaluations: `python -m stvsr_jax.evaluation.report RUN... [--overview] [--published]`.

One table for each ground truth and protocol: numbers of different protocols, low resolution or pixels are never
in the same one. Published scores stand beside measured ones of the same data set and protocol.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stvsr_jax import command_line
from stvsr_jax.evaluation import published

_METRICS = {
    "psnr_y": ("PSNR-Y", ".2f"),
    "ssim_y": ("SSIM-Y", ".4f"),
    "psnr_rgb": ("PSNR-RGB", ".2f"),
    "ssim_rgb": ("SSIM-RGB", ".4f"),
    "tof": ("tOF", ".3f"),
}
_NONE = ""
Record = Mapping[str, Any]


def read_record(run: Path) -> Record:
    """Returns the record of a complete evaluation.

    Raises:
      ValueError: the folder holds none.
    """
    file = run / "record.json"
    if not file.is_file():
        raise ValueError(f"{run} holds no evaluation: there is no {file.name}")
    try:
        record = json.loads(file.read_text())
        if record["status"] != "complete":
            raise ValueError(f"the evaluation in {run} is not complete; run its command again, it goes on")
        make_tables([record])  # reads all that any table or figure needs
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged or of something else: {type(error).__name__}: {error}"
        ) from error
    return record


def make_tables(records: Sequence[Record]) -> str:
    """Returns Markdown: one table for each group of records that can be compared."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(comparable(record), []).append(record)
    return "\n".join(_make_table(group) for group in groups.values())


def comparable(record: Record) -> tuple:
    """Returns what two records must have in common for their numbers to be compared."""
    dataset = record["settings"]["dataset"]
    protocol = tuple(sorted(record["settings"]["protocol"].items()))
    return dataset["name"], protocol, dataset["low_resolution"], dataset["reduce"], record["target_digest"]


def label(record: Record) -> str:
    """Returns what a record's method is called in tables and figures."""
    method = record["settings"]["method"]
    if "digest" not in method:
        return method["name"]
    tiles = f", tiles of {method['tile']}" if method["tile"] else ""
    number_format = f", {method['dtype']}" if method["dtype"] != "float32" else ""
    name = method.get("set", method["name"])  # several sets that ship are of one network
    return f"{name} {method['digest'][:8]}{number_format}{tiles}"


def _make_table(records: Sequence[Record]) -> str:
    first = records[0]
    dataset, protocol = first["settings"]["dataset"], first["settings"]["protocol"]
    printed = []
    # Records that do not say which frames were scored may call `center` what is `middle` now.
    is_middle = protocol["name"] == "center" and protocol.get("scored") != "0 4"
    # Published low resolution is MATLAB's bicubic of the frames as they are.
    if not is_middle and dataset["reduce"] == 1 and dataset["low_resolution"].startswith("MATLAB bicubic"):
        printed = published.find_scores(dataset["layout"], protocol["name"])
    metrics = [name for name in _METRICS if any(name in record["scores"] for record in records)]
    header = [
        "method",
        *(_METRICS[name][0] for name in metrics),
        "given",
        "between",
        "ms/frame",
        "source",
    ]
    rows = [_measured_row(record, metrics) for record in records]
    rows += [_published_row(score, metrics) for score in printed]
    reduced = f"reduced {dataset['reduce']:g} times, " if dataset["reduce"] != 1 else ""
    lines = [
        f"### {dataset['name']}, protocol `{protocol['name']}`",
        "",
        f"Clips: {len(dataset['clips'])}, scored frames: {first['frames']}, {reduced}ground truth "
        f"`{first['target_digest'][:8]}`; low resolution: {dataset['low_resolution']}; predictions "
        f"{'clamped and rounded to 8 bits' if protocol['rounded'] else 'in float, neither clamped nor rounded'}; "
        f"{_AVERAGES[protocol['average']]}. `given` and `between`: PSNR-Y of given and of interpolated frames.",
        "",
        _row(header),
        _row(["---"] * len(header)),
        *map(_row, rows),
        "",
    ]
    identical = [f"{label(r)}: {r['identical_frames']}" for r in records if r["identical_frames"]]
    if identical:
        lines += [f"Frames equal to the ground truth, whose PSNR is infinite: {', '.join(identical)}.", ""]
    return "\n".join(lines)


_AVERAGES = {
    "clip": "mean over the frames of a clip, then over clips",
    "window": "mean over the windows of all clips",
}


def _measured_row(record, metrics):
    device = record["settings"]["device"]["kind"]
    return [
        label(record),
        *(_format(record["scores"], name) for name in metrics),
        _format(record["given"], "psnr_y"),
        _format(record["interpolated"], "psnr_y"),
        f"{record['seconds_per_frame'] * 1e3:.1f}",
        f"measured, {device}, {record['date'][:10]}",
    ]


def _published_row(score, metrics):
    scores = {"psnr_y": score.psnr_y, "ssim_y": score.ssim_y}
    source = score.source + (f" ({score.remark})" if score.remark else "")
    return [score.method, *(_format(scores, name) for name in metrics), _NONE, _NONE, _NONE, source]


def _format(scores, name):
    return format(float(scores[name]), _METRICS[name][1]) if name in scores else _NONE


def _row(cells):
    return f"| {' | '.join(cells)} |"


def make_overview(records: Sequence[Record]) -> str:
    """Returns Markdown: a line for each group of records that can be compared, a column for each method."""
    methods = list(dict.fromkeys(map(label, records)))
    groups: dict[tuple, dict[str, Record]] = {}
    for record in records:
        groups.setdefault(comparable(record), {})[label(record)] = record
    rows = []
    for group in groups.values():
        first = next(iter(group.values()))
        cells = [
            f"{_format(group[m]['scores'], 'psnr_y')} / {_format(group[m]['scores'], 'ssim_y')}"
            if m in group
            else _NONE
            for m in methods
        ]
        settings = first["settings"]
        rows.append(
            [settings["dataset"]["name"], f"`{settings['protocol']['name']}`", str(first["frames"]), *cells]
        )
    header = ["data", "protocol", "scored frames", *methods]
    return "\n".join(map(_row, [header, ["---"] * len(header), *rows])) + "\n"


def make_published_table() -> str:
    """Returns Markdown of every published score."""
    rows = [
        [
            f.method,
            f.dataset,
            f.protocol or "not stated",
            f"{f.psnr_y:.2f}",
            f"{f.ssim_y:.4f}",
            f.source,
            f.remark,
        ]
        for f in published.SCORES
    ]
    header = ["method", "data set", "protocol", "PSNR-Y", "SSIM-Y", "source", "remark"]
    return "\n".join(map(_row, [header, ["---"] * len(header), *rows])) + "\n"


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = command_line.new_parser("python -m stvsr_jax.evaluation.report", __doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folder of an evaluation")
    parser.add_argument(
        "--overview",
        action="store_true",
        help="PSNR-Y / SSIM-Y alone, a line for each protocol and ground truth",
    )
    parser.add_argument("--published", action="store_true", help="also every published score")
    return parser


def run(args: argparse.Namespace) -> None:
    """Prints tables."""
    if not args.runs and not args.published:
        raise ValueError("name at least one evaluation, or --published")
    make = make_overview if args.overview else make_tables
    tables = [make([read_record(run) for run in args.runs])] if args.runs else []
    print("\n".join(tables + ([make_published_table()] if args.published else [])), end="")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
