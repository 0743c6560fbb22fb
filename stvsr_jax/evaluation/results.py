"""Scores of frames: their CSV files, and the averages that a protocol asks for.

Averages are always taken of the numbers as written, so that they can be taken again from the CSV file alone. A
frame equal to the ground truth has an infinite PSNR, and so has every average that it is part of: such frames
are counted, not dropped or capped (both would raise or lower a score by a choice that nobody sees).
"""

import csv
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stvsr_jax import files
from stvsr_jax.evaluation.protocols import frame_weights

_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class FrameScore:
    """One scored frame.

    Attributes:
      clip: its clip.
      frame: its index in the clip.
      window: index of the first given frame of the window that made it.
      time: its instant in given frames after that, as 'n' or 'n/d'.
      is_given: whether it was among the given frames.
      scores: {metric: value}; a metric that does not apply is absent.
      target: beginning of the SHA-256 of the true frame's shape and bytes, which identifies the data.
    """

    clip: str
    frame: int
    window: int
    time: str
    is_given: bool
    scores: dict[str, float]
    target: str


_COLUMNS = ("clip", "frame", "window", "time", "given", "target")


def image_digest(image: np.ndarray) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of uint8 [H, W, 3]."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def file_stem(number: int, clip: str) -> str:
    """Returns what the files of a clip are called; `number` is its place in the data set."""
    return f"{number:05d}_{clip.replace('/', '_')}"


def write_csv(path: Path, rows: Iterable[FrameScore], metrics: Sequence[str]) -> None:
    """Writes rows to a file that appears whole or not at all.

    Args:
      path: of the file.
      rows: in order.
      metrics: the columns of scores; one that a row does not have stays empty.
    """
    with files.replacing(path) as draft, draft.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS[:5], *metrics, "target"])
        for row in rows:
            values = [f"{row.scores[name]:.{_DIGITS}f}" if name in row.scores else "" for name in metrics]
            given = "yes" if row.is_given else "no"
            writer.writerow([row.clip, row.frame, row.window, row.time, given, *values, row.target])


def read_csv(path: Path) -> list[FrameScore]:
    """Reads what `write_csv` wrote.

    Raises:
      ValueError: it is damaged.
    """
    try:
        with path.open(newline="") as file:
            rows = [_read_row(line) for line in csv.DictReader(file)]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if not rows:
        raise ValueError(f"{path} is damaged: it has no rows")
    return rows


def _read_row(line):
    return FrameScore(
        clip=line["clip"],
        frame=int(line["frame"]),
        window=int(line["window"]),
        time=line["time"],
        is_given=line["given"] == "yes",
        scores={k: float(v) for k, v in line.items() if k not in _COLUMNS and v != ""},
        target=line["target"],
    )


def average(rows: Sequence[FrameScore], how: str) -> dict[str, float]:
    """Returns {metric: mean} of rows that have it.

    Args:
      rows: of any clips.
      how: 'clip' or 'window', see `protocols.Protocol`.
    """
    names = dict.fromkeys(name for row in rows for name in row.scores)
    means = {}
    for name in names:
        clips: dict[str, list[float]] = {}
        for row in rows:
            if name in row.scores:
                clips.setdefault(row.clip, []).append(row.scores[name])
        weights = frame_weights(how, [len(values) for values in clips.values()])
        means[name] = math.fsum(
            w * v for w, values in zip(weights, clips.values(), strict=True) for v in values
        )
    return means


def summarize(rows: Sequence[FrameScore], how: str) -> dict:
    """Returns the averages of a set of rows and of its parts, and what identifies its ground truth.

    Args:
      rows: all scored frames, clip by clip.
      how: 'clip' or 'window', see `protocols.Protocol`.
    """
    clips = dict.fromkeys(row.clip for row in rows)
    parts = {"given": True, "interpolated": False}
    target = "\n".join(f"{row.clip} {row.frame} {row.target}" for row in rows)
    return {
        "scores": average(rows, how),
        "frames": len(rows),
        "identical_frames": sum(math.isinf(row.scores["psnr_rgb"]) for row in rows),
        **{
            part: average([row for row in rows if row.is_given == is_given], how)
            for part, is_given in parts.items()
        },
        "clips": {clip: average([row for row in rows if row.clip == clip], how) for clip in clips},
        "target_digest": hashlib.sha256(target.encode()).hexdigest(),
    }
