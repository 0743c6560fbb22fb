"""Compiling for TPUs that are not here: libtpu compiles for a described topology on any Linux machine.

    report = compile_for(jax.jit(function).trace(*shapes_with_shardings), chip_of("v5e:2x2"))

A topology is a kind of chip and how many lie along each axis: v5e:2x2, v5e:4x4, v6e:2x2, v5p:2x2x1, v4:2x2x2. Nothing is
run. What the compiler says of memory is what the chip would need; times are lower bounds from the vendor's peaks.
"""

import dataclasses
import importlib.util
import os
import time
from typing import Any

import jax

from stvsr_jax.runtime import program_cost


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of a TPU chip.

    Attributes:
      teraflops: bfloat16 matrix products, 1e12 FLOP/s.
      memory: bytes of HBM.
      bandwidth: of the HBM, bytes per second.
      source: where the vendor says so.
      device_kinds: what JAX calls the chip.
      options: of the topology's description. Both cores of a v4 are one device of JAX only where it is asked for.
      compiler_options: what programs for the chip are compiled with, here and on the chip.
    """

    teraflops: float
    memory: float
    bandwidth: float
    source: str
    device_kinds: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    compiler_options: tuple[tuple[str, str], ...] = ()


_DOCUMENTS = "https://docs.cloud.google.com/tpu/docs"
CHIPS = {
    "v4": Chip(
        275.0,
        32 * 2**30,
        1200e9,
        f"{_DOCUMENTS}/v4",
        ("TPU v4",),
        (("chip_config_name", "megacore"),),
        # libtpu 0.0.42.1 ends with a segmentation fault where it moves what lies in CMEM, for VideoINR's training step.
        (("xla_tpu_cmem_max_repacks", "0"),),
    ),
    "v5e": Chip(197.0, 16e9, 819e9, f"{_DOCUMENTS}/v5e", ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip(459.0, 95e9, 2765e9, f"{_DOCUMENTS}/v5p", ("TPU v5", "TPU v5p")),
    "v6e": Chip(918.0, 32e9, 1638e9, f"{_DOCUMENTS}/v6e", ("TPU v6 lite", "TPU v6e")),
}

# Without them libtpu asks the metadata server of a Cloud TPU, and refuses a second process.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of a compiled program, of one device: a chip.

    Attributes:
      compile_seconds: tracing not included.
      compile_cpu_seconds: the same of all cores.
      memory_bytes: arguments, results and temporaries.
      temporary_bytes: of it the temporaries.
      xla_bytes: memory accesses as XLA's cost analysis counts them: what stays in VMEM too, and of a loop one turn.
      cost: counted in the program's text, see `program_cost`.
      memory_milliseconds: the HBM traffic at the peak bandwidth.
      matrix_milliseconds: the padded FLOPs at the peak rate.
      text: the program.
    """

    compile_seconds: float
    compile_cpu_seconds: float
    memory_bytes: int
    temporary_bytes: int
    xla_bytes: float
    cost: program_cost.Cost
    memory_milliseconds: float
    matrix_milliseconds: float
    text: str

    @property
    def bound_milliseconds(self) -> float:
        """No run is faster than this."""
        return max(self.memory_milliseconds, self.matrix_milliseconds)


def chip_of(topology: str) -> Chip:
    """Returns the chip of a topology's name.

    Raises:
      ValueError: it is none of `CHIPS`.
    """
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise ValueError(f"topology {topology!r} must be a chip of {sorted(CHIPS)} and a shape, like v5e:2x2")
    return CHIPS[kind]


def memory_of(device_kind: str) -> float | None:
    """Returns the bytes of a chip's HBM by what JAX calls the chip, None for another device."""
    chip = _chip_named(device_kind)
    return chip and chip.memory


def compiler_options_of(device_kind: str) -> dict[str, str]:
    """Returns what programs are compiled with for a chip by what JAX calls it, none for another device."""
    chip = _chip_named(device_kind)
    return dict(chip.compiler_options) if chip else {}


def _chip_named(device_kind):
    return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)


def describe_devices(topology: str) -> list[Any]:
    """Returns the devices of a topology, for a mesh.

    Raises:
      ValueError: unknown chip, or a shape that the chip does not come in.
      NotImplementedError: libtpu is not installed.
    """
    options = dict(chip_of(topology).options)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology, platform="tpu", **options).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, FileNotFoundError) as error:
        if not is_available():
            raise NotImplementedError(
                "compiling for a TPU takes libtpu: pip install 'stvsr-jax[tpu-compile]'"
            ) from error
        raise ValueError(f"topology {topology!r}: {error}") from error


def is_available() -> bool:
    """Returns whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def compile_for(traced: jax.stages.Traced, chip: Chip) -> Report:
    """Compiles what was traced for a topology's devices.

    Args:
      traced: from `jax.jit(function).trace(...)`, its arguments placed on the topology's devices.
      chip: from `chip_of`.

    Returns:
      The report.

    Raises:
      jax.errors.JaxRuntimeError: the program does not fit into the chip's memory, or cannot be compiled.
    """
    return compile_lowered(traced.lower(lowering_platforms=("tpu",)), chip)


def compile_lowered(lowered: jax.stages.Lowered, chip: Chip) -> Report:
    """Compiles what was lowered for a topology's devices; otherwise as `compile_for`."""
    began, cpu_began = time.perf_counter(), time.process_time()
    compiled = lowered.compile(dict(chip.compiler_options))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    memory, text = compiled.memory_analysis(), compiled.as_text()
    used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    cost = program_cost.count(text)
    return Report(
        compile_seconds=seconds,
        compile_cpu_seconds=cpu_seconds,
        memory_bytes=used - memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        xla_bytes=compiled.cost_analysis()["bytes accessed"],
        cost=cost,
        memory_milliseconds=cost.hbm_bytes / chip.bandwidth * 1e3,
        matrix_milliseconds=cost.padded_flops / chip.teraflops / 1e9,
        text=text,
    )
