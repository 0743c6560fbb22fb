"""Runs a method over a data set under a protocol, and keeps what it finds.

An evaluation is a folder:

    record.json     what was measured, with what, and the averages; written first, completed at the end
    frames.csv      every scored frame
    table.md        the averages beside published ones
    clips/          the frames of each clip that is done: an interrupted run goes on from them
    timing.csv      seconds that windows took
    predictions/, targets/    the frames themselves, 8-bit PNG, on request
"""

import contextlib
import csv
import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

import stvsr_jax
from stvsr_jax import metrics
from stvsr_jax.data.compression import H264
from stvsr_jax.evaluation import coded, consistency, rendering, results
from stvsr_jax.evaluation.datasets import EvaluationClip
from stvsr_jax.evaluation.methods import Method
from stvsr_jax.evaluation.protocols import Protocol, split_window


@dataclasses.dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
      method: the network or baseline.
      layout: of the data set, a key of `datasets.LAYOUTS`.
      name: of the data set, for tables.
      path: where its clips came from, for the record.
      given: where given low resolution came from, or None.
      clips: opened and checked, at least one.
      protocol: that of the clips.
      with_tof: also score temporal consistency.
      saves_frames: also keep predictions and ground truth as PNG.
      coding: what the low resolution of the clips went through, or None.
    """

    method: Method
    layout: str
    name: str
    path: str
    given: str | None
    clips: Sequence[EvaluationClip]
    protocol: Protocol
    with_tof: bool = False
    saves_frames: bool = False
    coding: H264 | None = None

    @property
    def title(self) -> str:
        """What tables call the data set: coded, it is another one."""
        return self.name if self.coding is None else f"{self.name}, {coded.name_coding(self.coding)}"

    @property
    def low_resolution(self) -> str:
        """What networks are given."""
        is_8_bit = self.coding or self.protocol.has_8_bit_input
        rounding = "8-bit" if is_8_bit else "float, not clamped"
        text = self.given or f"MATLAB bicubic 1/{self.protocol.space}, {rounding}"
        return text if self.coding is None else f"{coded.describe_coding(self.coding)} of {text}"

    @property
    def metrics(self) -> list[str]:
        """Columns of scores."""
        return [*metrics.METRICS, *(["tof"] if self.with_tof else [])]


def check(job: Job, out: Path, *, devices: Sequence[jax.Device] | None = None) -> None:
    """Raises ValueError if the job cannot be done, or not in that folder; nothing is computed or written."""
    job.method.check(job.protocol)
    if job.with_tof:
        consistency.import_opencv()
        indices = [
            index for window in job.protocol.plan(2 * job.protocol.shortest) for index in window.scored
        ]
        if all(b - a != 1 for a, b in itertools.pairwise(indices)):
            raise ValueError(f"tOF compares consecutive frames, and protocol {job.protocol.name} scores none")
    _check_folder(out, settings(job, devices or jax.local_devices()))


def evaluate(job: Job, out: Path, *, devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """Measures; an interrupted evaluation in the folder is continued.

    Args:
      job: what to measure.
      out: folder of this evaluation; made if it does not exist.
      devices: where windows run; default all of this process.

    Returns:
      The record, as in record.json.

    Raises:
      ValueError: the job cannot be done, or the folder holds another evaluation.
    """
    devices = list(devices or jax.local_devices())
    check(job, out, devices=devices)
    record = {"settings": settings(job, devices), "status": "running"}
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "record.json").exists():
        _write_record(out, record)
    (out / "clips").mkdir(exist_ok=True)
    names = [results.file_stem(number, clip.name) for number, clip in enumerate(job.clips)]
    files = [out / "clips" / f"{name}.csv" for name in names]
    todo = [n for n, file in enumerate(files) if not file.exists()]
    counts = [sum(len(window.scored) for window in job.protocol.plan(c.num_frames)) for c in job.clips]
    stream = rendering.render_windows(job.method, job.protocol, [job.clips[n] for n in todo], devices)
    bar = tqdm(
        total=sum(counts),
        initial=sum(counts) - sum(counts[n] for n in todo),
        unit="frame",
        desc=f"{job.method.name}, {job.title}, {job.protocol.name}",
        dynamic_ncols=True,
        disable=None,
    )
    with bar, contextlib.closing(stream) as rendered:
        for n in todo:
            rows, timing = _score_clip(job, job.clips[n], names[n], rendered, out, bar)
            _append_timing(out / "timing.csv", timing)
            results.write_csv(files[n], rows, job.metrics)
    rows = [row for file in files for row in results.read_csv(file)]
    results.write_csv(out / "frames.csv", rows, job.metrics)
    record |= {"status": "complete", **results.summarize(rows, job.protocol.average)}
    record["seconds_per_frame"] = _read_timing(out / "timing.csv")
    record["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    _write_record(out, record)
    return record


def settings(job: Job, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Returns everything that the numbers may depend on; two evaluations that agree here agree in them."""
    protocol = job.protocol
    packages = ["jax", "jaxlib", "flax", "numpy"]
    packages += ["opencv-python-headless"] if job.with_tof else []
    packages += ["av"] if job.coding else []
    return {
        "method": job.method.facts,
        "dataset": {
            "name": job.title,
            "layout": job.layout,
            "path": job.path,
            "low_resolution": job.low_resolution,
            "reduce": job.clips[0].reduce,
            "clips": {clip.name: [clip.num_frames, *clip.size] for clip in job.clips},
        },
        "protocol": {
            "name": protocol.name,
            "space": protocol.space,
            "rounded": protocol.rounded,
            "average": protocol.average,
            "scored": " ".join(map(str, protocol.plan(protocol.shortest)[0].scored)),
            "crop_to_multiples_of": protocol.multiple,
        },
        "metrics": job.metrics,
        "saves_frames": job.saves_frames,
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "matmul_precision": jax.config.jax_default_matmul_precision,
        },
        "versions": {
            "stvsr_jax": stvsr_jax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def _check_folder(out: Path, now: dict[str, Any]) -> None:
    """Refuses a folder of another evaluation, or of something else."""
    existing = out / "record.json"
    if existing.exists():
        try:
            before = json.loads(existing.read_text())["settings"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{existing} is damaged or of something else; choose another folder") from error
        before, now = _flatten(before), _flatten(now)
        differing = [
            f"{key}={before.get(key)!r} (here {now.get(key)!r})"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if differing:
            raise ValueError(
                f"{out} holds another evaluation: {', '.join(differing[:4])}; choose another folder"
            )
    elif out.exists() and (not out.is_dir() or any(not item.name.startswith(".") for item in out.iterdir())):
        raise ValueError(f"{out} exists and is no evaluation; choose another folder")


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for name, part in tree.items() for k, v in _flatten(part, f"{prefix}.{name}".lstrip(".")).items()
    }


def _write_record(out: Path, record: dict[str, Any]) -> None:
    partial = out / ".record.json.partial"
    partial.write_text(json.dumps(_printable(record), indent=2, allow_nan=False) + "\n")
    partial.replace(out / "record.json")


def _printable(tree: Any) -> Any:
    """JSON knows no infinity: it becomes the string 'inf', which `float` reads."""
    if isinstance(tree, dict):
        return {key: _printable(value) for key, value in tree.items()}
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def _score_clip(job, clip, name, rendered, out, bar):
    """Takes a clip's windows from `rendered`: its rows, and (frames, seconds) of each window."""
    rows, timing = [], []
    last = None  # index, prediction and target of the frame before
    pieces = sum(
        len(split_window(window, job.method.window_size)) for window in job.protocol.plan(clip.num_frames)
    )
    for result in itertools.islice(rendered, pieces):
        window = result.window
        for k, (index, instant) in enumerate(zip(window.scored, window.times, strict=True)):
            prediction, target = result.prediction[k], result.target[k]
            scores = {metric: float(values[k]) for metric, values in result.scores.items()}
            if any(math.isnan(value) for value in scores.values()):
                raise FloatingPointError(
                    f"frame {index} of clip {clip.name} was rendered with values that are no numbers"
                )
            if job.with_tof and last is not None and last[0] == index - 1:
                scores["tof"] = consistency.flow_distance((last[1], prediction), (last[2], target))
            last = (index, prediction, target)
            rows.append(
                results.FrameScore(
                    clip.name,
                    index,
                    window.inputs[0],
                    str(instant),
                    index in window.inputs,
                    scores,
                    results.image_digest(target),
                )
            )
            if job.saves_frames:
                for folder, image in (("predictions", prediction), ("targets", target)):
                    path = out / folder / name / f"{index:05d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(consistency.to_uint8(image)).save(path, compress_level=1)
        timing.append((clip.name, window.inputs[0], len(window.scored), result.seconds))
        bar.update(len(window.scored))
    return rows, timing


def _append_timing(path, timing):
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(["clip", "window", "frames", "seconds"])
        writer.writerows((clip, window, frames, f"{seconds:.6f}") for clip, window, frames, seconds in timing)


def _read_timing(path):
    """Returns the median over windows of seconds per frame (the first of each size were compiled meanwhile)."""
    with path.open(newline="") as file:
        return float(np.median([float(row["seconds"]) / int(row["frames"]) for row in csv.DictReader(file)]))
