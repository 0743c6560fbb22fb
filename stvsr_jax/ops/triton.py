"""Whether kernels can go through the Triton back end of Pallas, which JAX has deprecated (0.11) and will remove.

It is imported where its kernels are traced for a CUDA device, and nowhere else. Without it the operations run as they
do on other devices.
"""

import functools
import warnings

import jax

from stvsr_jax.ops.devices import allows_kernels, is_for_gpu

# What the kernels use of it.
NAMES = ("CompilerParams", "dot", "elementwise_inline_asm", "load", "store")


def is_usable() -> bool:
    """Return whether Triton's kernels can be part of what is traced now; warns if JAX has them no more."""
    if not (allows_kernels() and is_for_gpu()):
        return False
    if (reason := why_missing()) is not None:
        _warn(reason)
        return False
    # At every lowering, of jax 0.12.
    warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
    return True


def require(operation: str) -> None:
    """Raise NotImplementedError if an operation's Triton kernels were asked for and JAX has them no more."""
    if (reason := why_missing()) is not None:
        raise NotImplementedError(f"{operation}: pallas_triton cannot run: {reason}")


@functools.cache
def why_missing() -> str | None:
    """Return what of the back end this JAX lacks, None if nothing."""
    try:
        from jax.experimental.pallas import triton
    except ImportError as error:
        return f"jax {jax.__version__} has no Triton back end ({error})"
    missing = [name for name in NAMES if not hasattr(triton, name)]
    return f"jax {jax.__version__} has no {', '.join(missing)} in its Triton back end" if missing else None


@functools.cache
def _warn(reason):
    warnings.warn(f"some operations run slower: {reason}", stacklevel=3)
