"""A directory of compiled programs that are found by what they were made from.

A program's file is named after the code of this package, the versions of the libraries, the devices and the processor,
the settings of JAX and XLA, the arguments' shapes and whatever else its maker says. It is loaded in seconds where tracing alone takes
ten. The directory is part of JAX's compilation cache, and as with that one, whoever can write to it can run code here.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import math
import os
import pathlib
import pickle
import platform
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

import stvsr_jax
from stvsr_jax.files import replacing
from stvsr_jax.ops.devices import allows_kernels
from stvsr_jax.runtime import kernel_compiler
from stvsr_jax.runtime.function_identity import LIBRARIES

_LIMIT = 4 * 2**30  # bytes of all programs; one is some 20 MB


def is_on() -> bool:
    """Returns whether programs are kept: where JAX keeps them, but not those of CPUs or of several processes."""
    directory = jax.config.jax_compilation_cache_dir
    return (
        bool(directory)
        and "://" not in directory
        and jax.config.jax_enable_compilation_cache
        and jax.process_count() == 1
        and jax.default_backend() != "cpu"
    )


class _Without:
    """How many threads are inside of `without_jax_cache`, and the setting to restore after the last."""

    lock, count, before = threading.Lock(), 0, None


@contextlib.contextmanager
def without_jax_cache() -> Iterator[None]:
    """Keeps JAX's cache from storing what is compiled inside: a program that was loaded from there cannot be saved here.

    What other threads compile meanwhile is not stored there either.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    with _Without.lock:
        if _Without.count == 0:
            _Without.before = getattr(jax.config, name)
            jax.config.update(name, math.inf)
        _Without.count += 1
    try:
        yield
    finally:
        with _Without.lock:
            _Without.count -= 1
            if _Without.count == 0:
                jax.config.update(name, _Without.before)


class Entry:
    """Where the program that is made from `facts`, a text that tells it, for these devices is kept."""

    def __init__(self, facts: str, devices: Sequence[jax.Device]):
        description = repr((facts, _environment(tuple(devices))))
        directory = pathlib.Path(jax.config.jax_compilation_cache_dir) / "programs"
        self._path = directory / hashlib.sha256(description.encode()).hexdigest()[:32]
        self._devices = devices

    def load(self, arrays: tuple[Sequence[Any], Mapping[str, Any]]) -> jax.stages.Compiled | None:
        """Returns the program, which has been run; None if it is not there, or does not run: then it is removed.

        Args:
          arrays: its arguments, by place and by name. Their shapes, dtypes and shardings are used, not their values.
        """
        try:
            with self._path.open("rb") as file:
                program = pickle.load(file)
            kernel_compiler.load_runtime(self._devices[0])
            compiled = serialize_executable.deserialize_and_load(*program, execution_devices=self._devices)
            _prove(compiled, arrays)
            os.utime(self._path)
            return compiled
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged file leads to, the program can be made again
            reason = str(error).partition("\n")[0]
            warnings.warn(
                f"the compiled program {self._path} is removed and made again, since it cannot be used: "
                f"{type(error).__name__}: {reason}",
                stacklevel=2,
            )
            self._path.unlink(missing_ok=True)
            return None

    def save(self, compiled: jax.stages.Compiled) -> None:
        """Keeps the program; programs not used for long go if all together are too large."""
        if (
            digest_of_code() != _CODE
        ):  # which of them was compiled nobody knows: some modules are imported late
            warnings.warn("compiled programs are not kept: the package's files were changed", stacklevel=2)
            return
        try:
            program = serialize_executable.serialize(compiled)
            with replacing(self._path) as draft, draft.open("wb") as file:
                pickle.dump(program, file)
            _make_room(self._path.parent)
        except (OSError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
            warnings.warn(f"the compiled program {self._path} is not kept: {error!r}", stacklevel=2)


def _prove(compiled, arrays):
    """Runs a program twice, so that nothing is lost if it fails, not even arguments that it consumes.

    Those are zeros here, and so are those that are not on a device yet.
    """

    def stand_in(info, x):
        if isinstance(x, jax.Array) and not info.donated:
            return x
        made = np.zeros(x.shape, x.dtype)
        sharding = getattr(x, "sharding", None)
        return made if sharding is None else jax.device_put(made, sharding)

    leaves, structure = jax.tree.flatten(arrays)
    infos = jax.tree.leaves(compiled.args_info)
    results = []
    try:
        # While the first results are there, a CUDA graph is changed for the second's addresses.
        for _ in range(2):
            positional, named = jax.tree.unflatten(structure, map(stand_in, infos, leaves))
            results.append(jax.block_until_ready(compiled(*positional, **named)))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):  # too little memory for more is no fault of the program
            raise


def _make_room(directory):
    found = []
    for file in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            status = file.stat()
            found.append((status.st_mtime, status.st_size, file))
    total = 0
    for _, size, file in sorted(found, reverse=True):
        total += size
        if total > _LIMIT:
            file.unlink(missing_ok=True)


def _environment(devices):
    """Returns all that programs depend on besides their function and its arguments."""
    settings = [  # the attribute knows of `with` statements
        (name, getattr(jax.config, name, value))
        for name, value in sorted(jax.config.values.items())
        if "cache" not in name
    ]
    return (
        _CODE,
        [(name, importlib.metadata.version(name)) for name in LIBRARIES],
        devices[0].client.platform_version,
        [(device.id, device.device_kind) for device in devices],
        jax.device_count(),
        _describe_processor(),  # which starts the kernels, with code made for it
        settings,
        [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")],
        allows_kernels(),
    )


@functools.cache
def _describe_processor():
    try:
        facts = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on Linux
        return platform.processor()
    names = ("model name", "flags", "CPU part", "Features")
    return sorted({fact for fact in facts if fact.startswith(names)})


def digest_of_code() -> str:
    """Returns a digest of the package's files as they are now."""
    folder = pathlib.Path(stvsr_jax.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)} ".encode() + file.read_bytes())
    return digest.hexdigest()


_CODE = digest_of_code()  # of what is being imported, whatever becomes of the files while the process runs
