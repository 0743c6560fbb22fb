"""Compiles programs and finds compiled ones again. A training step takes a minute to compile and two seconds to load."""

import collections
import contextlib
import functools
import gc
import os
import pathlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import filelock
import jax

from stvsr_jax.files import default_cache_dir
from stvsr_jax.runtime import function_identity, kernel_compiler, program_store, topology


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, unless it is set already or the devices are CPUs.

    Programs compiled for one kind of CPU may not run on another that shares the directory. With a limit of its size JAX
    locks the directory; without one, processes that start together read entries that another is still writing.
    """
    with _KEEPING:  # of several threads one does it
        is_ours = jax.config.jax_compilation_cache_dir is None and jax.default_backend() != "cpu"
        if is_ours:
            jax.config.update("jax_compilation_cache_dir", str(default_cache_dir() / "compiled"))
        directory = jax.config.jax_compilation_cache_dir
        if directory and "://" not in directory and jax.config.jax_compilation_cache_max_size == -1:
            jax.config.update("jax_compilation_cache_max_size", _CACHE_SIZE)
            _complete_entries(pathlib.Path(directory), is_ours)


def _complete_entries(directory, is_ours):
    """Gives every entry the time of its last use, without which JAX fails; it writes the time after the entry.

    An entry without a time is of a process that ended in between, and is removed. In a directory that others use it may
    also be from before there was a limit; it counts as old.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / ".lockfile"):  # JAX's own
        for entry in directory.glob("*-cache"):
            time = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
            if not time.exists():
                entry.unlink() if is_ours else time.write_bytes(bytes(8))


_KEEPING = threading.Lock()
_CACHE_SIZE = 8 * 2**30  # bytes of JAX's entries; those not used for longest go first
_GRAPHS = "xla_gpu_enable_command_buffer"
# What goes into CUDA graphs: XLA's defaults, and more.
_IN_GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL,COLLECTIVES"
_CONVOLUTIONS = "CUDNN,CONVOLUTION"


def options(*, concurrent: bool = False) -> dict[str, str]:
    """Returns the compiler options for a network or a training step, those of `jax.jit(compiler_options=...)`.

    On a CUDA device the kernels of a program are launched as one CUDA graph. Thousands of small kernels take the host
    longer to launch one by one than the device to run; none of this if XLA_FLAGS sets what goes into graphs. On a TPU
    they are those of `topology.CHIPS`.

    Args:
      concurrent: independent kernels may run side by side. That is faster and takes about twice the memory: fewer
        buffers can be reused.
    """
    device = jax.devices()[0]
    if "cuda" not in device.client.platform_version.lower():
        return topology.compiler_options_of(device.device_kind)
    if "xla_gpu_enable_command_buffer" in os.environ.get("XLA_FLAGS", ""):
        return {}
    mode = {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"} if concurrent else {}
    return {_GRAPHS: f"{_IN_GRAPHS},{_CONVOLUTIONS}", **mode}


class Program:
    """A jitted function that finds its compiled programs in `program_store`; made by `jit`."""

    def __init__(
        self,
        function: Callable[..., Any],
        is_kept: bool,
        static_argnums: tuple[int, ...],
        static_argnames: tuple[str, ...],
        settings: Mapping[str, Any],
    ):
        self._function, self._is_kept, self._given = function, is_kept, settings
        self._static_argnums, self._static_argnames = static_argnums, static_argnames
        self._compiled, self._locks = {}, collections.defaultdict(threading.Lock)
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _settings(self):  # the devices are looked at as late as this
        if "compiler_options" in self._given:
            return self._given
        return {**self._given, "compiler_options": options()}

    @functools.cached_property
    def jitted(self) -> Callable[..., Any]:
        """The function as `jax.jit` makes it, for its other stages."""
        statics = dict(static_argnums=self._static_argnums, static_argnames=self._static_argnames)
        return jax.jit(self._function, **statics, **self._settings)

    def __call__(self, *args, **kwargs) -> Any:
        """Runs the function."""
        positional, named = self._split(args, kwargs)[0]
        return self.prepare(*args, **kwargs)(*positional, **named)

    def prepare(self, *args, **kwargs) -> jax.stages.Compiled:
        """Returns the program that runs on such arguments, compiled or loaded the first time."""
        arrays, statics = self._split(args, kwargs)
        signature = _describe(arrays), statics
        if signature not in self._compiled:
            with self._locks[signature]:  # of several threads one compiles
                if signature not in self._compiled:
                    self._compiled[signature] = self.compile(*args, **kwargs)
        return self._compiled[signature]

    def compile(self, *args, **kwargs) -> jax.stages.Compiled:
        """Returns the program for such arguments (of the static ones: with these values), loaded or made."""
        arrays, statics = self._split(args, kwargs)
        entry = self._find(arrays, statics) if self._is_kept and program_store.is_on() else None
        if entry is None:
            return self._make(self._lower(*args, **kwargs))
        compiled = entry.load(arrays)
        if compiled is not None:
            return compiled
        with entry.making():
            compiled = entry.load(arrays)  # another process may have made it meanwhile
            if compiled is not None:
                return compiled
            lowered = self._lower(*args, **kwargs)
            with program_store.without_jax_cache():
                compiled = self._make(lowered)
            entry.save(compiled)
            return compiled

    def _lower(self, *args, **kwargs):
        with _rare_garbage_searches():
            return self.jitted.lower(*args, **kwargs)

    def _find(self, arrays, statics):
        """Returns where the program is kept, None if nothing tells it from others."""
        made_of = self._function, statics, self._settings
        try:
            facts = f"{function_identity.describe(made_of)}, {_describe(arrays)}"
            if " at 0x" in facts:
                raise ValueError("its arguments differ in each process")
        except ValueError as error:
            warnings.warn(f"programs of {self.__qualname__} are not kept: {error}", stacklevel=4)
            return None
        return program_store.Entry(facts, _devices_of(arrays))

    def _make(self, lowered):
        """Compiles, with the float32 convolutions of cuDNN outside of CUDA graphs.

        cuDNN prepares each convolution when it first runs. Where the program is compiled, tuning has run all of them.
        In a process that loads it, the first run would be the recording of the graph, where cuDNN fails: "unknown
        cudnn status: 5003". Programs of 16 bits have few small ones left, and were seen to run there.
        """
        has_graphs = _GRAPHS in (self._settings["compiler_options"] or {})
        outside = has_graphs and kernel_compiler.has_float32_convolutions(lowered)
        return kernel_compiler.compile_lowered(lowered, {_GRAPHS: _IN_GRAPHS} if outside else None)

    def _split(self, args, kwargs):
        """Returns the arrays, by place and by name, and the static arguments."""
        arrays = [a for number, a in enumerate(args) if number not in self._static_argnums]
        named = {name: a for name, a in kwargs.items() if name not in self._static_argnames}
        places = tuple(args[number] for number in self._static_argnums)
        return (arrays, named), (places, tuple(sorted((k, v) for k, v in kwargs.items() if k not in named)))


@contextlib.contextmanager
def _rare_garbage_searches() -> Iterator[None]:
    """Inside, Python searches for garbage less often: tracing makes many objects, and the searches take a quarter of its time."""
    global _tracing, _thresholds
    with _COUNTING:  # several threads may trace
        if not _tracing:
            _thresholds = gc.get_threshold()
            gc.set_threshold(100_000, *_thresholds[1:])
        _tracing += 1
    try:
        yield
    finally:
        with _COUNTING:
            _tracing -= 1
            if not _tracing:
                gc.set_threshold(*_thresholds)


_COUNTING = threading.Lock()
_tracing, _thresholds = 0, gc.get_threshold()


def _describe(arrays):
    """Returns what tells programs for other arrays apart."""
    leaves, structure = jax.tree.flatten(arrays)
    return structure, tuple([(x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves])


def _devices_of(arrays):
    for x in jax.tree.leaves(arrays):
        if isinstance(x, jax.Array):
            mesh = getattr(x.sharding, "mesh", None)
            return tuple(x.sharding.device_set if mesh is None else mesh.devices.flat)
    return (jax.devices()[0],)


def jit(
    function: Callable[..., Any],
    *,
    is_kept: bool = True,
    static_argnums: tuple[int, ...] = (),
    static_argnames: tuple[str, ...] = (),
    **settings: Any,
) -> Program:
    """Returns the function jitted, whose programs are kept from one process to the next.

    It is compiled with `options()`, unless `compiler_options` are among the settings, and Mosaic kernels are compiled
    side by side. A kept program is found without the function being traced: by what the function is made of, its
    closure included (`function_identity`), the arguments, and the code of this package.

    Args:
      function: of arrays (jax or numpy) in pytrees, and static arguments. Where something in its closure cannot be told
        from others, its programs are not kept, and a warning says so.
      is_kept: False to keep none.
      static_argnums: as of `jax.jit`; such arguments have to be given by place.
      static_argnames: as of `jax.jit`; such arguments have to be given by name.
      **settings: of `jax.jit`.
    """
    return Program(function, is_kept, static_argnums, static_argnames, settings)
