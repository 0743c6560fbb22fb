"""Times the whole way of a video, stage by stage: `stvsr speed IN`.

The job runs twice. The first run loads or compiles the programs and is reported as the start; the second is measured.
Then the network and the encoder run alone: what each could do if nothing else had to be done.
"""

import argparse
import functools
import itertools
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from stvsr_jax import command_line, models, stages
from stvsr_jax.inference import (
    alone,
    device_network,
    device_processes,
    host_memory,
    job,
    number_format,
    request,
)
from stvsr_jax.inference.predictor import Predictor
from stvsr_jax.parsers.speed import make_parser
from stvsr_jax.runtime import compilation
from stvsr_jax.video import media, segment_encoder
from stvsr_jax.weights import choice

_ALONE_SECONDS = 5.0  # of the network, after its programs are there
_ALONE_CALLS = 200  # of each device
_ALONE_BYTES = 2**28  # of frames that are encoded alone
_SUFFIXES = {"ffv1": ".mkv", "prores": ".mov"}
# A stage that is busy for this share of the time is what the rest waits for.
_FULL = 0.85


def run(args: argparse.Namespace) -> None:
    """Runs the benchmark and prints it."""
    record = measure(args)
    print(json.dumps(record) if args.json else "\n".join(describe(record)))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.inference.speed"), run, argv)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the job twice, and the network and the encoder alone.

    Returns:
      What `describe` makes lines of: facts of the run, `stages` in the order of the work, rates in output frames
      per second.
    """
    began = time.perf_counter()
    with device_processes.started(device_processes.count_needed(args.devices)) as processes:
        network = load(args, processes)
        return _measure(args, network, time.perf_counter() - began)


def _measure(args, network, load_seconds):
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / f"out{_SUFFIXES.get(args.codec, '.mp4')}"
        names = (
            "space",
            "time",
            "max_frames",
            "batch",
            "tile",
            "codec",
            "crf",
            "preset",
            "input_fps",
            "decoder",
        )
        given = {name: value for name in names if (value := getattr(args, name)) is not None}
        plan = request.make_plan(request.Request(args.input, target, overwrite=True, **given), network.name)
        first = _run(plan, network, args.sink)
        second = _run(plan, network, args.sink)
        encoder = _encode_alone(plan, target) if args.sink == "file" else None
        file_bytes = target.stat().st_size if args.sink == "file" else 0
    network_alone = _run_alone(plan, network)
    height, width = plan.out_size
    device = network.devices[0]
    return {
        "input": f"{args.input.name}, {plan.info.width}x{plan.info.height}, {plan.input_frames} frames",
        "output": f"{width}x{height}, {second['frames']} frames, {plan.video.codec if args.sink == 'file' else 'null'}",
        "network": f"{network.name}, {network.dtype}",
        "devices": f"{len(network.devices)} x {device.device_kind}, {stages.count_cores()} cores",
        "jax": jax.__version__,
        "load_seconds": load_seconds,
        "first_frame_seconds": first["first_frame_seconds"],
        "first_run_seconds": first["seconds"],
        "seconds": second["seconds"],
        "frames_per_second": second["frames"] / second["seconds"],
        "steady_frames_per_second": second["steady"],
        "file_bytes": file_bytes,
        "network_alone": network_alone,
        "encoder_alone": encoder,
        "share_of_network": second["steady"] / network_alone,
        "stages": [
            {
                "name": usage.name,
                "workers": usage.workers,
                "items": usage.items,
                "rate": usage.rate,
                "share_busy": usage.share_busy,
            }
            for usage in second["usage"]
        ],
        "bottleneck": name_bottleneck(second["usage"]),
    }


def name_bottleneck(usage: Sequence[stages.Usage]) -> str:
    """Returns which stage the others wait for, in words."""
    busiest = max(usage, key=lambda one: one.share_busy)
    share = f"{busiest.name} ({busiest.share_busy:.0%} busy)"
    if busiest.share_busy >= _FULL:
        return share
    return f"none: the busiest is {share}; the run is short, or the processor is full"


def describe(record: dict[str, Any]) -> list[str]:
    """Returns the lines of the table."""
    facts = [f"{key:9s} {record[key]}" for key in ("input", "output", "network", "devices", "jax")]
    lines = [
        *facts,
        f"{'start':9s} weights {record['load_seconds']:.2f} s, then {record['first_frame_seconds']:.2f} s to the first "
        f"frame; the whole first run {record['first_run_seconds']:.2f} s",
        f"{'run':9s} {record['seconds']:.2f} s, {record['frames_per_second']:.1f} frames/s; after the first window "
        f"{record['steady_frames_per_second']:.1f} frames/s",
        "",
        f"{'stage':9s} {'workers':>7s} {'frames':>7s} {'own rate/s':>11s} {'busy':>6s}",
    ]
    for one in record["stages"]:
        rate = f"{one['rate']:.1f}" if np.isfinite(one["rate"]) else "-"
        lines.append(
            f"{one['name']:9s} {one['workers']:7d} {one['items']:7d} {rate:>11s} {one['share_busy']:6.0%}"
        )
    lines += ["", f"network alone: {record['network_alone']:.1f} frames/s; the run reaches "
              f"{record['share_of_network']:.0%} of it"]  # fmt: skip
    if record["encoder_alone"] is not None:
        lines.append(f"encoder alone: {record['encoder_alone']:.1f} frames/s")
    return [*lines, f"bottleneck: {record['bottleneck']}"]


def load(
    args: argparse.Namespace, processes: Sequence[device_processes.DeviceProcess] = ()
) -> Predictor | device_network.DeviceNetwork:
    """Returns the network that is asked for, on the devices of this process or of others."""
    if processes:  # which have the GPUs
        jax.config.update("jax_platforms", "cpu")
    compilation.keep_compiled_programs()
    devices = jax.local_devices()[: args.devices]
    platform = device_network.platform_of(processes[0]) if processes else devices[0].platform
    network = _make(args, number_format.choose_dtype(args.dtype, platform), devices)
    return device_network.DeviceNetwork(network, processes) if processes else network


def _make(args, dtype, devices):
    if args.random is None:
        chosen = choice.choose(
            checkpoint=args.checkpoint,
            model=args.model,
            space=args.space,
            time=args.time,
            is_video=args.input.is_file(),
        )
        return Predictor.from_pretrained(chosen.source, dtype=number_format.DTYPES[dtype], devices=devices)
    model = models.build(args.random, dtype=number_format.DTYPES[dtype])
    shapes = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(shape):  # the offset heads' too: at their zero start nothing would be sampled between pixels
        fan_in = np.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 1e4
        return np.asarray(rng.standard_normal(shape.shape) * 0.5 / np.sqrt(fan_in), shape.dtype)

    return Predictor(args.random, model, jax.tree.map(draw, shapes), devices=devices)


def _run(plan, network, sink):
    """Runs the job once and returns how long it took, and its stages."""
    done = []  # (seconds, frames)
    timers = stages.Timers()
    began = time.perf_counter()
    files = job.open_files(plan) if sink == "file" else [None]
    job.run(
        plan,
        network,
        files,
        on_progress=lambda count, is_new: is_new and done.append((time.perf_counter() - began, count)),
        timers=timers,
    )
    seconds = time.perf_counter() - began
    (first_seconds, first_count), total = done[0], done[-1][1]
    steady = (total - first_count) / (seconds - first_seconds) if total > first_count else total / seconds
    return {
        "seconds": seconds,
        "frames": total,
        "first_frame_seconds": first_seconds,
        "steady": steady,
        "usage": timers.usage(),
    }


def _run_alone(plan, network):
    """Returns the output frames per second of all devices that are given the same windows again and again."""
    batch = job.choose_batch(plan, network)
    windows = itertools.islice(job.windows_of(plan, network), batch + 1)
    *_, window = windows  # the first has one frame more
    frames = np.stack([frame.image for frame in window.frames])
    frames = np.broadcast_to(frames, (batch, *frames.shape))
    measure_alone = functools.partial(
        alone.calls_per_second,
        frames=frames,
        times=[window.times] * batch,
        seconds=_ALONE_SECONDS,
        calls=_ALONE_CALLS,
        **job.settings_of(plan, job.layout_of(plan, network.devices[0].platform)),
    )
    is_remote = isinstance(network, device_network.DeviceNetwork)
    rates = network.on_each(measure_alone) if is_remote else [measure_alone(network)]
    return sum(rates) * batch * len(window.outputs)


def _encode_alone(plan, file):
    """Returns the frames per second of the encoder that gets the output's own frames, and all cores."""
    frames = []
    with media.open_to_read(file) as container:
        for frame in container.decode(container.streams.video[0]):
            frames.append(frame)
            size = sum(plane.buffer_size for plane in frame.planes)
            if len(frames) * size > _ALONE_BYTES:
                break
    memory = host_memory.available_memory()
    workers = segment_encoder.choose_workers(plan.video, plan.segment, memory=memory)
    timer = stages.Timer("encode", workers)
    encoder = segment_encoder.SegmentEncoder(
        plan.video, has_global_header=True, workers=workers, segment=plan.segment, timer=timer
    )
    began = time.perf_counter()
    segments = []
    for number, frame in enumerate(frames):
        if number and number % plan.segment == 0:
            segments.append(encoder.cut())
        encoder.add(frame, number, 1)
    segments.append(encoder.cut())
    for segment in segments:
        segment.result()
    seconds = time.perf_counter() - began
    encoder.close()
    return len(frames) / seconds


if __name__ == "__main__":
    sys.exit(main())
