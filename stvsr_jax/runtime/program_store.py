"""A directory of compiled programs that are found by what they were made from.

A program's file is named after the code of this package, the versions of the libraries, the devices and the processor,
the settings of JAX and XLA, the arguments' shapes and whatever else its maker says. It is loaded in seconds where tracing alone takes
ten. The directory is part of JAX's compilation cache, and as with that one, whoever can write to it can run code here.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import pickle
import platform
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import filelock
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
        self._path = _path_of(facts, devices)
        self._devices = devices

    def load(self, arrays: tuple[Sequence[Any], Mapping[str, Any]]) -> jax.stages.Compiled | None:
        """Returns the program, which has been run; None if it is not there, or does not run: then it is removed.

        Args:
          arrays: its arguments, by place and by name. Their shapes, dtypes and shardings are used, not their values.
        """
        try:
            begun = _begun.pop(self._path, None)
            compiled = _load(self._path, self._devices, arrays) if begun is None else begun.result()
            os.utime(self._path)
            self._note()
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

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """Holds a lock of the program: of processes that need it at the same time one makes it, and all run the same."""
        lock = filelock.FileLock(self._path.parent.with_name("making") / self._path.name)
        with contextlib.ExitStack() as stack:
            # Where no file can be locked each makes its own, as without other processes.
            with contextlib.suppress(OSError, NotImplementedError):
                pathlib.Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                stack.callback(lock.release)
            yield

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
            self._note()
        except (OSError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
            warnings.warn(f"the compiled program {self._path} is not kept: {error!r}", stacklevel=2)

    def _note(self):
        _used[self._path] = [device.id for device in self._devices]


_used: dict[pathlib.Path, list[int]] = {}  # programs that this process has loaded or saved, and their devices
_begun: dict[pathlib.Path, concurrent.futures.Future] = {}  # programs that `begin_loading` loads


def remember(facts: str, devices: Sequence[jax.Device]) -> None:
    """Notes which programs this process has used so far.

    Args:
      facts: a text that tells what for.
      devices: of this process.
    """
    if not _used or not is_on():
        return
    note = _path_of(facts, devices)
    content = json.dumps([[path.name, *ids] for path, ids in _used.items()])
    with contextlib.suppress(OSError):  # the next start is slower
        if not note.exists() or note.read_text() != content:
            with replacing(note) as draft:
                draft.write_text(content)


def begin_loading(facts: str, devices: Sequence[jax.Device]) -> None:
    """Begins to load the programs that `remember` noted, each in a thread; `Entry.load` waits for those it needs.

    Programs that this process has used are there already.

    Args:
      facts: the same text.
      devices: the same devices.
    """
    note, by_id = _path_of(facts, devices), {device.id: device for device in devices}
    found = json.loads(note.read_text()) if note.exists() else []
    programs = {note.with_name(name): tuple(by_id[number] for number in ids) for name, *ids in found}
    missing = {path: homes for path, homes in programs.items() if path not in _used and path not in _begun}
    if missing:
        pool = concurrent.futures.ThreadPoolExecutor(len(missing), thread_name_prefix="load_program")
        _begun.update({path: pool.submit(_load, path, homes) for path, homes in missing.items()})
        pool.shutdown(wait=False)


def _path_of(facts, devices):
    description = repr((facts, _environment(tuple(devices))))
    directory = pathlib.Path(jax.config.jax_compilation_cache_dir) / "programs"
    return directory / hashlib.sha256(description.encode()).hexdigest()[:32]


def _load(path, devices, arrays=None):
    """Returns a program that has been run, with zeros if its arguments are not there yet."""
    with path.open("rb") as file:
        program = pickle.load(file)
    kernel_compiler.load_runtime(devices[0])
    compiled = serialize_executable.deserialize_and_load(*program, execution_devices=devices)
    _prove(compiled, _make_zeros(compiled) if arrays is None else arrays)
    return compiled


def _make_zeros(compiled):
    """Returns arguments for a program, on its devices unless it consumes or ignores them."""

    def make(info, sharding):
        zeros = np.zeros(info.shape, info.dtype)
        return zeros if info.donated or sharding is None else jax.device_put(zeros, sharding)

    infos, structure = jax.tree.flatten(compiled.args_info)
    shardings = jax.tree.leaves(compiled.input_shardings, is_leaf=lambda x: x is None)
    return jax.tree.unflatten(structure, map(make, infos, shardings))


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
