"""What the networks' programs need on TPUs that are not here: `python -m stvsr_jax.benchmark --topology v5e:2x2`.

The same jobs as `benchmark` times, compiled for a described topology and not run, see `runtime.topology`. Inference runs
on one chip; a training step (with optimiser, guard and average) on all chips of the topology, each with the published batch.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from stvsr_jax import models
from stvsr_jax.inference import programs
from stvsr_jax.runtime import program_cost, sharding, topology
from stvsr_jax.training import optim, train_state, train_step


@dataclasses.dataclass(frozen=True)
class Job:
    """A program and the shapes, dtypes and shardings of its arguments.

    Attributes:
      function: jitted.
      arguments: of it.
      shapes: one line for a person.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    shapes: str


def make_job(
    name: str,
    devices: list[Any],
    *,
    is_training: bool,
    fsdp: int = 1,
    dtype: str = "bfloat16",
    remat: bool = False,
    fields: dict[str, Any] | None = None,
    **sizes: int | None,
) -> Job:
    """Returns the program of a network for devices that need not be here.

    Args:
      name: of the network.
      devices: of the mesh.
      is_training: a training step; otherwise inference.
      fsdp: chips that share one copy of the state.
      dtype: a key of `models.DTYPES`.
      remat: whether the backward pass recomputes.
      fields: other fields of the network.
      **sizes: batch (of a chip), frames, height, width, times; None: those of the README's table.

    Raises:
      ValueError: sizes or fields that the network does not have, devices that do not divide by fsdp.
    """
    contract = models.contract_of(name)
    model = models.build(name, dtype=models.DTYPES[dtype], remat=remat, **(fields or {}))
    shape = contract.benchmark_shape(is_training=is_training, **sizes)
    shape = dataclasses.replace(shape, batch=shape.batch * len(devices))
    out_size = shape.out_size
    mesh = sharding.make_mesh(devices, fsdp=fsdp)

    def rows(*sides):
        return jax.ShapeDtypeStruct(
            (shape.batch, *sides), jnp.float32, sharding=sharding.batch_sharding(mesh)
        )

    given = {
        "frames": rows(shape.frames, shape.height, shape.width, 3),
        "times": rows(shape.times),
    }
    optimizer = optim.make_optimizer(optim.OptimizerConfig(1e-4, 1e-7, 150_000, 0.9, 0.99, ema_decay=0.999))
    if is_training:
        given["target"] = rows(shape.times, *out_size, 3)
        loss = train_step.LossConfig("charbonnier", "mean")
        step = train_step.make_train_step(model, optimizer, loss, mesh, ema_decay=0.999, compiler_options={})
        state = train_state.describe(model, optimizer, mesh, has_ema=True)
        return Job(step.jitted, (state, given), str(shape))
    rows_at_a_time = programs.chunk_rows(out_size, "tpu")
    run = sharding.on_each_device(
        lambda params, b: models.render(
            model, params, b["frames"], b["times"], out_size=out_size, chunk_rows=rows_at_a_time
        ),
        mesh,
        in_specs=(sharding.WHOLE, sharding.ROWS),
        out_specs=sharding.ROWS,
    )
    params = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)), params
    )
    return Job(jax.jit(run), (params, given), str(shape))


def compile_job(job: Job, topology_name: str) -> topology.Report:
    """Compiles a job for the chips of a topology; see `topology.compile_for`."""
    return topology.compile_for(job.function.trace(*job.arguments), topology.chip_of(topology_name))


def describe(job: Job, report: topology.Report, topology_name: str) -> dict[str, Any]:
    """Returns what is known of a compiled job: numbers by names that say their unit."""
    return {
        "shapes": job.shapes,
        "compile_seconds": report.compile_seconds,
        "compile_cpu_seconds": report.compile_cpu_seconds,
        "memory_gigabytes": report.memory_bytes / 1e9,
        "temporary_gigabytes": report.temporary_bytes / 1e9,
        "device_gigabytes": topology.chip_of(topology_name).memory / 1e9,
        "xla_gigabytes_accessed": report.xla_bytes / 1e9,
        "hbm_gigabytes": report.cost.hbm_bytes / 1e9,
        "vmem_gigabytes": report.cost.vmem_bytes / 1e9,
        "teraflops": report.cost.flops / 1e12,
        "padded_teraflops": report.cost.padded_flops / 1e12,
        "hbm_bound_milliseconds": report.memory_milliseconds,
        "matrix_bound_milliseconds": report.matrix_milliseconds,
        "collectives": {
            kind: {"count": report.cost.collective_counts[kind], "megabytes": size / 1e6}
            for kind, size in report.cost.collective_bytes.items()
        },
    }


def run(args: argparse.Namespace) -> None:
    """Compiles what the arguments of `benchmark` ask for and prints the report."""
    devices = topology.describe_devices(args.topology)
    job = make_job(
        args.model,
        devices if args.train else devices[:1],
        is_training=args.train,
        fsdp=args.fsdp,
        dtype=args.dtype,
        remat=args.remat,
        **{key: getattr(args, key) for key in ("batch", "frames", "height", "width", "times")},
    )
    report = compile_job(job, args.topology)
    record = {
        "model": args.model,
        "job": "training step" if args.train else "inference",
        "dtype": args.dtype,
        "topology": args.topology,
        "fsdp": args.fsdp,
        "jax": jax.__version__,
        **describe(job, report, args.topology),
    }
    if args.json:
        print(json.dumps(record))
        return
    for key, value in record.items():
        print(f"{key:28} {value:.4g}" if isinstance(value, float) else f"{key:28} {value}")
    print(f"computed, not measured; peaks of the chip: {topology.chip_of(args.topology).source}")
    for name, size, runs in program_cost.list_operations(report.text)[: args.profile]:
        print(f"{size / 1e9:9.3f} GB {runs:6d} x  {name}")
