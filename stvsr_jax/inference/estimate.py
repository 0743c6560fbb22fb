"""What a job will do and about how long it will take, from running two of its windows."""

import datetime
import math
import resource
import time

import numpy as np

from stvsr_jax.inference import device_network, job, predictor
from stvsr_jax.inference.request import Plan


def describe(plan: Plan) -> list[str]:
    """Returns what is known without running anything, a line each."""
    info, video = plan.info, plan.video
    height, width = plan.out_size
    seconds = plan.input_frames / info.rate
    kind = f"{len(info.pictures)} pictures" if info.pictures else f"{info.bit_depth} bits per component"
    rate = f"{float(info.rate):.5g} frames/s{'' if info.is_constant_rate else ' on average'}"
    lines = [
        f"input: {info.path}, {info.width}x{info.height}, {rate}, {plan.input_frames} frames, "
        f"{float(seconds):.2f} s, {kind}",
        f"output: {width}x{height}, {float(video.rate):.5g} frames/s, {plan.output_frames} frames",
        f"encoding: {video.codec}, {video.encoded_format}, a segment every {plan.segment} frames",
    ]
    return lines + [f"note: {remark}" for remark in plan.remarks]


def measure(plan: Plan, network: predictor.Predictor) -> list[str]:
    """Runs the first window twice and returns time and memory that the job will take, a line each.

    The first run compiles; the second tells how long a window takes. Reading and encoding go on beside the
    network and are not counted.
    """
    network.tile = plan.request.tile
    window = next(job.windows_of(plan, network))
    images = np.stack([frame.image for frame in window.frames])
    predict = job.predict_one_with(plan, network, job.layout_of(plan, network.devices[0].platform))
    batch = job.choose_batch(plan, network)
    spans = []
    for _ in range(2):
        start = time.perf_counter()
        rendered = predict(images[None], [window.times], 0)
        spans.append(time.perf_counter() - start)
    first, second = spans
    seconds = second / batch
    # A window has its first frame in common with the one before.
    windows = max(1, math.ceil((plan.input_frames - 1) / (network.window_size - 1)))
    total = first + seconds * math.ceil((windows - 1) / len(network.devices))
    frames = network.tile or f"{plan.info.width}x{plan.info.height}, whole"
    lines = [
        f"windows: about {windows} of {network.window_size} frames, tiles of {frames}, on {len(network.devices)} "
        f"{network.devices[0].platform} device(s), in {network.dtype}",
        f"time: {seconds:.3g} s for a window, {max(0.0, first - second):.3g} s to compile; about "
        f"{datetime.timedelta(seconds=math.ceil(total))} in all "
        f"({plan.output_frames / total:.3g} frames/s)",
    ]
    window_bytes = images.nbytes + sum(part.nbytes for part in rendered)
    return lines + [f"memory: {_describe_memory(window_bytes, network)}"]


def remark_on_dtype(network: predictor.Predictor) -> list[str]:
    """Returns a line on the number format unless it is float32."""
    if network.dtype == "float32":
        return []
    return [f"the network computes in {network.dtype}; --dtype float32 is exact and slower"]


def _describe_memory(window_bytes, network):
    mebibyte = 2**20
    # What was used so far, and two more windows that wait to be written.
    host = _peak_host_bytes(network) + 2 * window_bytes
    if isinstance(network, device_network.DeviceNetwork):
        host += sum(network.on_each(_peak_host_bytes))
    stats = network.devices[0].memory_stats() or {}
    device = stats.get("peak_bytes_in_use")
    on_device = f", {device / mebibyte:.0f} MiB on the device" if device else ", the network's included"
    return f"about {host / mebibyte:.0f} MiB of the machine{on_device}"


def _peak_host_bytes(network):
    del network  # of the process that has it
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in kibibytes
