"""Whether this JAX has the Triton lowering of Pallas, which is deprecated since 0.11.

It is imported only where kernels are traced for a CUDA device. Without it, ops run as XLA does.
"""

import functools
import warnings

import jax

from stvsr_jax.ops.devices import allows_kernels, is_for_gpu, is_for_tpu

# What the kernels use of it.
NAMES = ("CompilerParams", "dot", "elementwise_inline_asm", "load", "store")


def is_usable() -> bool:
    """Returns whether a program traced now may hold Triton kernels. Warns if this JAX has no Triton lowering."""
    if not (allows_kernels() and is_for_gpu()):
        return False
    if (reason := why_missing()) is not None:
        _warn(reason)
        return False
    # At every lowering, of jax 0.12.
    warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
    return True


def require(operation: str) -> None:
    """Checks that an op's Triton kernel, which is asked for by name, can be traced. A CPU interprets it, or refuses.

    Raises:
      NotImplementedError: this JAX has no Triton lowering, or the program is for a TPU.
    """
    if is_for_tpu():
        raise NotImplementedError(f"{operation}: pallas_triton cannot run on a TPU")
    if (reason := why_missing()) is not None:
        raise NotImplementedError(f"{operation}: pallas_triton cannot run: {reason}")


@functools.cache
def why_missing() -> str | None:
    """Returns what this JAX lacks, or None."""
    try:
        from jax.experimental.pallas import triton
    except ImportError as error:
        return f"jax {jax.__version__} has no Triton back end ({error})"
    missing = [name for name in NAMES if not hasattr(triton, name)]
    return f"jax {jax.__version__} has no {', '.join(missing)} in its Triton back end" if missing else None


@functools.cache
def _warn(reason):
    warnings.warn(f"some operations run slower: {reason}", stacklevel=3)
