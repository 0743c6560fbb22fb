"""Speed of the input pipeline: `python -m stvsr_jax.data.benchmark --config configs/videoinr.py [--config.data...]`.

For each stage of the recipe it prints the milliseconds that each part of a sample takes on one thread, and the samples per
second of several numbers of worker processes (0: threads of the main process). With `--step_seconds` it compares them with
the samples that training steps consume. A run with this config and seed draws the same samples.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
from absl import app, flags

from stvsr_jax import command_line, config_flag
from stvsr_jax.data import degradations, pipeline, reduction, samples, transforms
from stvsr_jax.data.clip import Clip
from stvsr_jax.data.datasets import DataConfig, open_clips, report_faults
from stvsr_jax.data.windows import WindowSpec, list_windows
from stvsr_jax.stages import count_cores

_CONFIG = config_flag.define()
_STEP_SECONDS = flags.DEFINE_float(
    "step_seconds", None, "Seconds of a training step, as training reports them.", lower_bound=1e-6
)
_WORKERS = flags.DEFINE_list("workers", None, "Numbers of worker processes; default 0, 1, 2, 4 .. cores.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "How long each number of workers is timed.", lower_bound=0.01)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON record instead of a table.")

_USAGE = """usage: python -m stvsr_jax.data.benchmark --config CONFIG [--config.KEY=VALUE ...]
           [--workers 0,1,...] [--step_seconds SECONDS] [--seconds SECONDS] [--json]

  --workers        numbers of worker processes; default: 0, 1, 2, 4 .. cores
  --step_seconds   of a training step, as training reports them: says which share of its need the workers meet
  --seconds        how long each number of workers is timed; default: 10
  --json           one JSON record instead of a table
"""
# Samples whose parts are timed.
_TIMED_SAMPLES = 48


class _Stopwatch:
    """Adds up the seconds spent in some functions."""

    def __init__(self):
        self.seconds = dict.fromkeys(("decode", "reduce", "augment", "degrade"), 0.0)

    def timed(self, name: str, function: Callable) -> Callable:
        def run(*args, **kwargs):
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return run


def time_parts(clips: Sequence[Clip], spec: WindowSpec, *, seed: int) -> dict[str, float]:
    """Returns the milliseconds that the parts of a sample cost one thread, on average.

    They are decode (reading frames), reduce (making low and high resolution), augment,
    degrade, other, and total.
    """
    windows, watch = list_windows(clips, ((0, spec),)), _Stopwatch()
    chosen = np.random.default_rng(seed).integers(len(windows), size=_TIMED_SAMPLES)
    draws = [np.random.default_rng((seed, i)) for i in range(2 * _TIMED_SAMPLES)]

    def draw(numbers):
        for number in numbers:
            clip, start = windows[int(chosen[number])]
            rng, batch_rng = draws[2 * number : 2 * number + 2]
            samples.draw_sample(timed_clips[clip], start, spec, rng=rng, batch_rng=batch_rng)

    timed_clips = {i: _TimedClip(clips[i], watch) for i in {windows[int(n)][0] for n in chosen}}
    with ExitStack() as stack:
        for module, function, part in (
            (reduction, "reduce_crop", "reduce"),
            (transforms, "augment", "augment"),
            (degradations, "degrade", "degrade"),
        ):
            timed = watch.timed(part, getattr(module, function))
            stack.enter_context(mock.patch.object(module, function, timed))
        warm = _TIMED_SAMPLES // 8
        draw(range(warm))  # opens files and fills tables
        watch.seconds = dict.fromkeys(watch.seconds, 0.0)
        began = time.perf_counter()
        draw(range(warm, _TIMED_SAMPLES))
        total = time.perf_counter() - began
    parts = watch.seconds | {"other": total - sum(watch.seconds.values()), "total": total}
    return {name: 1e3 * seconds / (_TIMED_SAMPLES - warm) for name, seconds in parts.items()}


class _TimedClip:
    """A clip whose reads are timed."""

    def __init__(self, clip: Clip, watch: _Stopwatch):
        self._clip = clip
        self.read = watch.timed("decode", clip.read)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)


def _mean_parts(parts: Sequence[pipeline.Part], *, seed: int) -> dict[str, float]:
    """Returns `time_parts` of all sources, weighted by their shares."""
    times = [time_parts(part.clips, part.recipe[0][1], seed=seed) for part in parts]
    total = sum(part.share for part in parts)
    return {
        name: sum(part.share / total * time[name] for part, time in zip(parts, times, strict=True))
        for name in times[0]
    }


def measure_throughput(
    parts: Sequence[pipeline.Part], *, batch_size: int, seed: int, num_workers: int, seconds: float
) -> float:
    """Returns the samples per second that `num_workers` make when nothing else holds them up."""
    dataset = pipeline.make_train_dataset(parts, batch_size=batch_size, seed=seed, num_workers=num_workers)
    iterator = iter(dataset)
    try:
        # What is made ahead while workers start must not count: begin when the batches are made as they are taken.
        for _ in itertools.islice(iterator, 1 + 2 * max(1, num_workers)):
            pass
        count, began = 0, time.perf_counter()
        while count < 2 or time.perf_counter() - began < seconds:
            next(iterator)
            count += 1
        return count * batch_size / (time.perf_counter() - began)
    finally:
        iterator.close()


def run(config: Any, *, workers: Sequence[int], seconds: float, step_seconds: float | None) -> dict[str, Any]:
    """Measures all stages of a config's recipe; returns the record that `--json` prints.

    Raises:
      ValueError: the config or the data does not fit, before anything is timed.
    """
    fields = {field.name for field in dataclasses.fields(DataConfig)}
    given = config.data.to_dict()
    if given.keys() != fields:
        raise ValueError(f"config.data must have the keys {sorted(fields)}; it has {sorted(given)}")
    data = DataConfig(**given)
    opened = open_clips(data)
    report_faults(opened.faults, strict=data.strict)
    shared = {"batch_size": data.batch_size, "seed": config.seed, "seconds": seconds}
    stages = []
    for number, (first, _) in enumerate(opened.recipe):
        parts = [dataclasses.replace(p, recipe=((0, p.recipe[number][1]),)) for p in opened.parts]
        stages.append(
            {
                "first_step": first,
                "milliseconds": _mean_parts(parts, seed=config.seed),
                "samples_per_second": {
                    count: measure_throughput(parts, num_workers=count, **shared) for count in workers
                },
            }
        )
    needed = data.batch_size / step_seconds if step_seconds else None
    return {
        "data": opened.description,
        "batch_size": data.batch_size,
        "cores": count_cores(),
        "needed_samples_per_second": needed,
        "stages": stages,
    }


def format_record(record: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a record for a person."""
    needed = record["needed_samples_per_second"]
    yield f"{record['data']}\nbatches of {record['batch_size']}, {record['cores']} cores"
    for stage in record["stages"]:
        parts = dict(stage["milliseconds"])
        total = parts.pop("total")
        shares = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
        yield f"\nfrom step {stage['first_step']:,}: {total:.1f} ms a sample on one thread ({shares})"
        yield "workers  samples/s" + ("  of what steps consume" if needed else "")
        for count, rate in stage["samples_per_second"].items():
            share = f"  {100 * rate / needed:.0f} %" if needed else ""
            yield f"{count:>7}  {rate:>9.1f}{share}"
        if needed:
            cores = needed * total / 1e3
            yield f"steps consume {needed:.1f} samples/s: the work of {cores:.1f} cores like one of these"


def main(argv: Sequence[str]) -> int:
    """Measures what the flags say and prints it; returns the exit code."""
    config_flag.set_verbosity()
    return command_line.guard(lambda: _run(argv))


def _run(argv):
    if len(argv) > 1:
        raise ValueError(f"unexpected arguments {argv[1:]}")
    workers = _parse_workers(_WORKERS.value)
    record = run(_CONFIG.value, workers=workers, seconds=_SECONDS.value, step_seconds=_STEP_SECONDS.value)
    print(json.dumps(record) if _JSON.value else "\n".join(format_record(record)))


def _parse_workers(texts: Sequence[str] | None) -> list[int]:
    if texts is None:
        cores = count_cores()
        return [0, *(2**i for i in range(cores.bit_length()) if 2**i <= cores)]
    if not texts or not all(text.strip().isdigit() for text in texts):
        raise ValueError(f"--workers={','.join(texts)} must be whole numbers from 0, separated by commas")
    return [int(text) for text in texts]


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=lambda argv: config_flag.parse(argv, _CONFIG, _USAGE))
