"""Keeps compiled programs between runs: a training step takes a GPU one to two minutes to compile."""

import jax

from stvsr_jax.data.scan_cache import default_cache_dir


def keep_compiled_programs() -> None:
    """Turn on JAX's persistent compilation cache, unless it is set already or the devices are CPUs.

    Programs compiled for one kind of CPU may not run on another that shares the directory.
    """
    if jax.config.jax_compilation_cache_dir is None and jax.default_backend() != "cpu":
        jax.config.update("jax_compilation_cache_dir", str(default_cache_dir() / "compiled"))
