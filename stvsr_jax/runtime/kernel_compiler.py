"""Compiles a program's Mosaic GPU kernels in parallel.

XLA compiles them one after the other, a quarter of a second each; the networks have 50 to 130. It looks first into a table
of the process, by the kernel's hash. Threads fill that table beforehand: each compiles a program of one kernel. If an
entry is missing, XLA compiles the kernel itself. So the threads change nothing but the time.
"""

import concurrent.futures
import contextlib
import importlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.mlir import ir

from stvsr_jax.stages import count_cores

_TARGET = "mosaic_gpu_v2"
_RUNTIME_VARIABLE = "MOSAIC_GPU_RUNTIME_LIB_PATH"
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")  # in the order in which JAX looks
_DTYPES = {"bf16": jnp.bfloat16, "f16": jnp.float16, "f32": jnp.float32, "i32": jnp.int32}


class Kernel(NamedTuple):
    """One kernel of a program.

    Attributes:
      operands: what it reads.
      results: what it writes.
      attributes: of the call, its code among them.
    """

    operands: list[jax.ShapeDtypeStruct]
    results: list[jax.ShapeDtypeStruct]
    attributes: dict[str, Any]


def compile_lowered(
    lowered: jax.stages.Lowered, compiler_options: dict[str, str] | None = None
) -> jax.stages.Compiled:
    """Returns `lowered.compile(compiler_options)`."""
    kernels = find_kernels(lowered)
    if kernels:
        # The pool is left before XLA compiles the rest: both take the same locks, and would only wait for each other.
        with concurrent.futures.ThreadPoolExecutor(count_cores()) as pool:
            pool.map(_compile_alone, kernels)
    return lowered.compile(compiler_options)


def load_runtime(device: jax.Device) -> None:
    """Makes the functions known that compiled Mosaic GPU kernels call.

    JAX names their library in the environment when it lowers a kernel. A process that loads a program lowers none, and
    the kernels would not be linked: "Symbols not found: mosaic_gpu_init_tma_desc". Importing all that lowers them takes
    a fifth of a second and more, so it is done only where the library is in no place that is known.
    """
    if device.platform != "gpu" or _RUNTIME_VARIABLE in os.environ:
        return
    for plugin in _PLUGINS:
        spec = importlib.util.find_spec(plugin)
        for folder in (spec and spec.submodule_search_locations) or ():
            if (library := pathlib.Path(folder) / "libmosaic_gpu_runtime.so").is_file():
                os.environ[_RUNTIME_VARIABLE] = str(library)
                return
    with contextlib.suppress(ImportError):  # a JAX without them
        importlib.import_module("jax.experimental.mosaic.gpu")


def has_float32_convolutions(lowered: jax.stages.Lowered) -> bool:
    """Returns whether a program has convolutions in float32, which on a CUDA device are cuDNN's."""
    module = lowered.compiler_ir()
    with module.context:
        return any(
            operation.name == "stablehlo.convolution" and "xf32>" in str(operation.operands[0].type)
            for operation in _walk(module.operation)
        )


def find_kernels(lowered: jax.stages.Lowered) -> list[Kernel]:
    """Returns the Mosaic GPU kernels of a program, each once."""
    module = lowered.compiler_ir()
    found = {}
    with module.context:
        for operation in _walk(module.operation):
            # A GPU kernel is one custom call: its attributes hold the whole kernel, as MLIR, and the hash of it.
            if operation.name == "stablehlo.custom_call":
                if ir.StringAttr(operation.attributes["call_target_name"]).value == _TARGET:
                    kernel = _describe(operation)
                    found[kernel.attributes["kernel_hash"]] = kernel  # equal kernels have equal hashes
    return list(found.values())


def lower_alone(kernel: Kernel) -> jax.stages.Lowered:
    """Returns a program of one kernel: the same custom call with the same attributes, hence the same hash."""
    call = jax.ffi.ffi_call(_TARGET, kernel.results)
    return jax.jit(lambda *operands: call(*operands, **kernel.attributes)).lower(*kernel.operands)


def _compile_alone(kernel):
    lower_alone(kernel).compile()


def _walk(operation) -> Iterator[Any]:
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _walk(inner)


def _describe(operation):
    attributes = {}
    for attribute in ir.DictAttr(operation.attributes["mhlo.backend_config"]):
        is_flag = isinstance(attribute.attr, ir.BoolAttr)
        value = attribute.attr.value if is_flag else ir.StringAttr(attribute.attr).value_bytes
        attributes[attribute.name] = value
    return Kernel(_types(operation.operands), _types(operation.results), attributes)


def _types(values):
    types = [ir.RankedTensorType(value.type) for value in values]
    return [jax.ShapeDtypeStruct(tuple(t.shape), _DTYPES[str(t.element_type)]) for t in types]
