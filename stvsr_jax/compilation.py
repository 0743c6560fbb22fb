"""How programs are compiled, and where they are kept: a training step takes a GPU one to two minutes to compile."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax


def keep_compiled_programs() -> None:
    """Turn on JAX's persistent compilation cache, unless it is set already or the devices are CPUs.

    Programs compiled for one kind of CPU may not run on another that shares the directory.
    """
    from stvsr_jax.data.scan_cache import default_cache_dir  # with all of the data pipeline

    if jax.config.jax_compilation_cache_dir is None and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(default_cache_dir() / "compiled"))


# What XLA puts into CUDA graphs: what it does by default, and the last four.
_IN_GRAPHS = (
    "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE,CONDITIONAL,COLLECTIVES"
)


def options(*, concurrent: bool = False) -> dict[str, str]:
    """Return the compiler options for a network or a training step, those of `jax.jit(compiler_options=...)`.

    On a CUDA device all kernels of a program are started together, as one graph: one after the other, thousands of
    small ones take a processor longer to start than the device to run. Empty elsewhere, and where XLA_FLAGS already
    says what to put into graphs.

    Args:
      concurrent: kernels that do not wait for each other may run side by side. That is faster, and takes about twice
        the memory: fewer results can lie where earlier ones were.
    """
    if "xla_gpu_enable_command_buffer" in os.environ.get("XLA_FLAGS", ""):
        return {}
    if "cuda" not in jax.devices()[0].client.platform_version.lower():
        return {}
    mode = {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"} if concurrent else {}
    return {"xla_gpu_enable_command_buffer": _IN_GRAPHS, **mode}


def jit(function: Callable[..., Any], **arguments: Any) -> Callable[..., Any]:
    """Return `jax.jit(function, **arguments)` with `options()`, for which the devices are looked at at the first call."""

    @functools.cache
    def compiled():
        return jax.jit(function, compiler_options=options(), **arguments)

    return functools.wraps(function)(lambda *args, **kwargs: compiled()(*args, **kwargs))
