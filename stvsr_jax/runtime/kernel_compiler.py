"""Compiles a program whose Mosaic kernels are compiled side by side.

XLA compiles the Mosaic GPU kernels of a program one after the other, a quarter of a second each, and the networks have
fifty to a hundred and thirty. But it asks a table of the process first, which threads fill before: they compile
programs of one kernel each. What is not in the table XLA compiles itself: nothing depends on the threads but time.
"""

import concurrent.futures
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.mlir import ir

_TARGET = "mosaic_gpu_v2"
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
    """Return `lowered.compile(compiler_options)`."""
    kernels = find_kernels(lowered)
    if kernels:
        # XLA's other work would have to wait for the same locks meanwhile.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            pool.map(_compile_alone, kernels)
    return lowered.compile(compiler_options)


def has_float32_convolutions(lowered: jax.stages.Lowered) -> bool:
    """Return whether XLA has convolutions of float32 to make in a program, which on CUDA devices are cuDNN's."""
    module = lowered.compiler_ir()
    with module.context:
        return any(
            operation.name == "stablehlo.convolution" and "xf32>" in str(operation.operands[0].type)
            for operation in _walk(module.operation)
        )


def find_kernels(lowered: jax.stages.Lowered) -> list[Kernel]:
    """Return the Mosaic GPU kernels of a program, each once."""
    module = lowered.compiler_ir()
    found = {}
    with module.context:
        for operation in _walk(module.operation):
            if operation.name == "stablehlo.custom_call":
                if ir.StringAttr(operation.attributes["call_target_name"]).value == _TARGET:
                    kernel = _describe(operation)
                    found[kernel.attributes["kernel_hash"]] = kernel
    return list(found.values())


def lower_alone(kernel: Kernel) -> jax.stages.Lowered:
    """Return a program of one kernel."""
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
