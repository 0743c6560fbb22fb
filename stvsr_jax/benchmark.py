"""Speed of the networks: `python -m stvsr_jax.benchmark --model zooming_slowmo [--train] [--dtype bfloat16]`.

Prints time (median and spread), frames per second, TFLOP/s and its share of what a large matrix product reaches on
the same device in the same dtype, peak memory, and compile time, cold and from the persistent cache. Every call
gets other inputs than the one before. Inference is waited for call by call; training steps, of which nobody reads a
result, are started ahead of the device as in a run, and timed several at once. The defaults are the shapes of the
README's table. `--profile` adds what the device did in that time, kernel by kernel; a GPU's kernels are then started
one by one, which takes longer. Started as several processes (see `distributed.initialize`), it times all their
devices together.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from stvsr_jax import command_line, models, topology_benchmark
from stvsr_jax.inference import programs
from stvsr_jax.ops import devices
from stvsr_jax.parsers.benchmark import make_parser
from stvsr_jax.runtime import compilation, distributed, sharding
from stvsr_jax.training import optim, train, train_state, train_step

_INPUTS = 3  # sets of inputs that take turns
_STEPS_AHEAD = 5  # training steps that are waited for together
_PROFILED_CALLS = 3
# Operations that hold others, whose time the others have.
_CONTAINERS = ("while", "call", "conditional")


@dataclasses.dataclass(frozen=True)
class Job:
    """What is timed.

    Attributes:
      function: of (parameters or state, batch), jitted.
      carry: the first argument.
      batches: the second, one per call in turn.
      returns_carry: whether the first result replaces `carry` (which is consumed).
      frames: output frames of one call.
      shapes: one line for a person.
      devices: how many take part.
    """

    function: compilation.Program
    carry: Any
    batches: Sequence[Any]
    returns_carry: bool
    frames: int
    shapes: str
    devices: int


def make_job(args: argparse.Namespace) -> Job:
    """Builds the network with random parameters and the inputs."""
    if args.train and args.dtype not in train.DTYPES:
        raise ValueError(f"--dtype {args.dtype}: networks are trained in {' or '.join(sorted(train.DTYPES))}")
    dtype = models.DTYPES[args.dtype]
    fields = {"implementation": args.implementation} if args.implementation else {}
    model = models.build(args.model, dtype=dtype, remat=args.remat, **fields)
    contract = models.contract_of(args.model)
    sizes = {name: getattr(args, name) for name in ("batch", "frames", "height", "width", "times")}
    for name, value in {**sizes, "repeats": args.repeats}.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    shape = contract.benchmark_shape(is_training=args.train, **sizes)
    least = _fewest_devices()
    devices = least if args.devices is None else args.devices
    if not least <= devices <= jax.device_count():
        raise ValueError(
            f"--devices {devices} must be between {least} and {jax.device_count()}: those there are, and "
            "all of them where there are several processes"
        )
    shape = dataclasses.replace(shape, batch=shape.batch * devices)
    batch, times, out_size = shape.batch, shape.times, shape.out_size
    keys = jax.random.split(jax.random.key(1), _INPUTS)

    def make_batch(key):
        made = {
            "frames": jax.random.uniform(key, (batch, shape.frames, shape.height, shape.width, 3)),
            "times": jnp.tile(jnp.arange(times) / times, (batch, 1)),
        }
        if args.train:
            made["target"] = jax.random.uniform(key, (batch, times, *out_size, 3))
        return made

    mesh = sharding.make_mesh(jax.devices()[:devices])
    place = jax.jit(make_batch, out_shardings=sharding.batch_sharding(mesh))
    batches = [place(key) for key in keys]
    params = _random_params(model)
    # The profiler does not see the kernels of loops inside of a graph.
    compiler_options = {} if args.profile else compilation.options(concurrent=args.concurrent_kernels)
    if not args.train:
        # VideoINR renders one instant after the other, as for a video.
        rows = programs.chunk_rows(out_size, jax.default_backend())
        options = dict(out_size=out_size, chunk_rows=rows)
        run = sharding.on_each_device(
            lambda params, b: models.render(model, params, b["frames"], b["times"], **options),
            mesh,
            in_specs=(sharding.WHOLE, sharding.ROWS),
            out_specs=sharding.ROWS,
        )
        params = jax.device_put(params, sharding.replicated(mesh))
        function = compilation.jit(run, compiler_options=compiler_options)
        return Job(function, params, batches, False, batch * times, str(shape), devices)
    optimizer_config = optim.OptimizerConfig(1e-4, 1e-7, 150_000, 0.9, 0.99)
    optimizer = optim.make_optimizer(optimizer_config)
    state = train_state.create_on(mesh, params, optimizer, has_ema=False)
    loss = train_step.LossConfig("charbonnier", "mean")
    step = train_step.make_train_step(model, optimizer, loss, mesh, compiler_options=compiler_options)
    return Job(step, state, batches, True, batch * times, str(shape), devices)


def _fewest_devices():
    """Returns how many devices must take part: one, but of several processes all."""
    return 1 if jax.process_count() == 1 else jax.device_count()


def _random_params(model):
    """Random parameters, the offset heads' included: at their zero start nothing would be sampled between pixels."""
    shapes = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(s):
        fan_in = np.prod(s.shape[:-1]) if len(s.shape) > 1 else 1e4
        return jnp.asarray(rng.standard_normal(s.shape) * 0.5 / np.sqrt(fan_in), s.dtype)

    return jax.tree.map(draw, shapes)


def measure(job: Job, *, repeats: int, profiled: bool = False) -> dict[str, Any]:
    """Compiles twice (cold, then from a persistent cache) and times calls.

    Returns:
      milliseconds (median), milliseconds_low and _high (5 % and 95 %), compile_seconds, cached_compile_seconds,
      gigabytes (of the compiled program on a device: arguments, results and work space), teraflops (operations of
      a device counted in the program as written, in units of 1e12); if `profiled` also kernels, see `profile`.
    """
    with devices.without_kernels():  # whose operations cannot be seen
        flops = count_flops(job.function.jitted.trace(job.carry, job.batches[0]).jaxpr.jaxpr)
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        seconds = []
        for _ in range(2):
            jax.clear_caches()
            began = time.perf_counter()
            compiled = job.function.compile(job.carry, job.batches[0])
            seconds.append(time.perf_counter() - began)
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
    memory = compiled.memory_analysis()
    used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    carry, turns = job.carry, itertools.cycle(job.batches)

    def run(calls=1):
        nonlocal carry
        for _ in range(calls):
            out = compiled(carry, next(turns))
            carry = out[0] if job.returns_carry else carry
        jax.block_until_ready(out)

    # A CPU runs nothing ahead.
    calls = _STEPS_AHEAD if job.returns_carry and jax.default_backend() != "cpu" else 1
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        run(calls)
        times.append((time.perf_counter() - began) / calls)
    low, median, high = np.percentile(times[2:], [5, 50, 95]) * 1e3  # the first two warm up
    return {
        "milliseconds": median,
        "milliseconds_low": low,
        "milliseconds_high": high,
        "compile_seconds": seconds[0],
        "cached_compile_seconds": seconds[1],
        "gigabytes": (used - memory.alias_size_in_bytes) / 1e9,
        "teraflops": flops / 1e12,
        **({"kernels": profile(run)} if profiled else {}),
    }


def profile(call: Callable[[], None]) -> list[tuple[str, float, float]]:
    """Returns (name, milliseconds in a call, times in a call) of all kernels, those with most time first.

    Kernels whose names differ in their numbers alone are counted as one. On a CPU a kernel is an operation of the
    compiled program.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(_PROFILED_CALLS):
                call()
        file = next(pathlib.Path(folder).rglob("*.xplane.pb"))
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    # Plugins of devices that are not used, as libtpu where it is installed, have planes without events.
    devices = [plane for plane in planes if plane.name.startswith("/device:") and any(plane.lines)]
    milliseconds, times = collections.Counter(), collections.Counter()
    for line in (line for plane in devices or planes for line in plane.lines):
        if devices and not line.name.startswith(("Stream", "XLA Ops")):  # the other lines sum these up
            continue
        for event in line.events:
            name = re.sub(r"([._]\d+)+$", "", event.name)
            is_operation = devices or any(key == "hlo_op" for key, _ in event.stats)
            if is_operation and not name.startswith((*_CONTAINERS, "end: ")):
                milliseconds[name] += event.duration_ns / 1e6 / _PROFILED_CALLS
                times[name] += 1 / _PROFILED_CALLS
    return [(name, spent, times[name]) for name, spent in milliseconds.most_common()]


def count_flops(jaxpr) -> float:
    """Counts the operations of all convolutions and matrix products, 2 per multiply-add, loops included."""
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = [count_flops(sub) for sub in jax.extend.core.jaxprs_in_params(eqn.params)]
        # The branches of a cond are one for each platform and compute the same.
        inner = min(inner) if eqn.primitive.name == "cond" else sum(inner)
        if eqn.primitive.name == "scan":
            inner *= eqn.params["length"]
        elif eqn.primitive.name == "pallas_call":
            inner *= np.prod(eqn.params["grid_mapping"].grid)
        total += inner + _equation_flops(eqn)
    return total


def _equation_flops(eqn):
    if eqn.primitive.name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        lhs = eqn.invars[0].aval.shape
        return 2.0 * np.prod(eqn.outvars[0].aval.shape) * np.prod([lhs[i] for i in contract])
    if eqn.primitive.name == "conv_general_dilated":
        numbers, kernel = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
        # Zeros put between the inputs (the derivative of a strided convolution) cost nothing that is needed.
        dilation = np.prod(eqn.params["lhs_dilation"])
        taps = np.prod([kernel[i] for i in numbers.rhs_spec[1:]])
        return 2.0 * np.prod(eqn.outvars[0].aval.shape) * taps / dilation
    return 0.0


def matmul_peak(dtype: Any, size: int) -> float:
    """Returns the TFLOP/s of a square matrix product on the default device."""
    a, b = jax.random.normal(jax.random.key(0), (2, size, size)).astype(dtype)
    product = jax.jit(lambda a, b: a @ b)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        jax.block_until_ready(product(a, b))
        times.append(time.perf_counter() - began)
    return 2.0 * size**3 / np.median(times[2:]) / 1e12


def run(args: argparse.Namespace) -> None:
    """Runs one benchmark and prints it."""
    if args.dtype == "float32":
        # Real float32: by default a GPU may take TF32 for it.
        jax.config.update("jax_default_matmul_precision", "highest")
    job = make_job(args)
    result = measure(job, repeats=args.repeats, profiled=args.profile > 0)
    device = jax.local_devices()[0]
    peak = matmul_peak(models.DTYPES[args.dtype], 8192 if device.platform != "cpu" else 1024)
    rate = result["teraflops"] / result["milliseconds"] * 1e3
    record = {
        "model": args.model,
        "job": "training step" if args.train else "inference",
        "shapes": job.shapes,
        "dtype": args.dtype,
        "device": f"{job.devices} x {device.device_kind}, {jax.process_count()} processes",
        "jax": jax.__version__,
        **result,
        "frames_per_second": job.frames / result["milliseconds"] * 1e3,
        "teraflops_per_second": rate,
        "matmul_teraflops_per_second": peak,
        "share_of_matmul": rate / peak,
    }
    kernels = record.pop("kernels", [])
    if kernels:
        record["kernel_milliseconds"] = sum(spent for _, spent, _ in kernels)
        record["kernel_count"] = sum(times for _, _, times in kernels)
    if jax.process_index() > 0:
        return
    if args.json:
        print(json.dumps(record | ({"kernels": kernels[: args.profile]} if kernels else {})))
    else:
        for name, value in record.items():
            print(f"{name:28s} {value:.4g}" if isinstance(value, float) else f"{name:28s} {value}")
        for name, spent, times in kernels[: args.profile]:
            print(f"{spent:9.3f} ms {times:7.0f} x  {name[:100]}")


def start(args: argparse.Namespace) -> None:
    """Joins the other processes, if there are any, and runs; compiles alone for a topology that is not here."""
    if args.topology:
        topology_benchmark.run(args)
        return
    distributed.initialize()
    run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.benchmark"), start, argv)


if __name__ == "__main__":
    sys.exit(main())
