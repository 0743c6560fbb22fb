"""Begins what a start waits for longest while Python still imports: the device, and the programs of the last such job.

Which programs a job needs is known once its modules are imported, its input is read and its network is there. So a job
notes their names (`remember`), and the next one with the same arguments and an input of the same size loads them from
the start. That changes nothing but the time: a program is found under its name only if it is the right one.
"""

import argparse
import contextlib
import ctypes
import gc
import os
import pathlib
import threading
from collections.abc import Iterator

# Arguments that decide nothing about the programs.
_IGNORED = "paths overwrite crf preset segment max_frames preview input_fps shard decoder".split()


@contextlib.contextmanager
def begun(args: argparse.Namespace) -> Iterator[None]:
    """Inside, the device is woken and programs are loaded by threads; imports JAX.

    From then on XLA takes a GPU's memory as it needs it, unless the environment says otherwise: to take three quarters
    at once costs 1.3 s of an H200's start, and leaves little to other programs.

    Args:
      args: of `stvsr upscale`.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with contextlib.ExitStack() as threads:
        _begin(threads, _wake_driver)
        with importing():
            import jax  # noqa: F401 (the driver wakes meanwhile)

            _begin(threads, _wake_devices)
            # What threads need is imported by this one: of modules that import each other they might find one half done.
            from stvsr_jax.runtime import compilation, program_store  # noqa: F401
            from stvsr_jax.video import media  # noqa: F401

        _begin(threads, _load, args)
        yield


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside, Python does not search for garbage: imports leave little, and the searches take a tenth of their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _begin(threads, function, *args):
    thread = threading.Thread(target=function, args=args, name=function.__name__)
    thread.start()
    threads.callback(thread.join)


def remember(args: argparse.Namespace, source: pathlib.Path) -> None:
    """Notes the programs that this process has used so far for the next job like it, if `source` is its first input."""
    import jax

    from stvsr_jax.runtime import program_store

    with contextlib.suppress(Exception):  # the input may be gone by now: the next start is slower
        if source == args.paths[0] and (facts := _describe(args)) is not None:
            program_store.remember(facts, jax.local_devices())


def _wake_driver():
    """Initialises CUDA's driver, a part of what XLA does first, without JAX."""
    with contextlib.suppress(OSError, AttributeError):  # there is none
        ctypes.CDLL("libcuda.so.1").cuInit(0)


def _wake_devices():
    import jax

    with contextlib.suppress(RuntimeError):  # who needs them meets it again
        jax.local_devices()


def _load(args):
    import jax

    from stvsr_jax.runtime import compilation, program_store

    with contextlib.suppress(Exception):  # of the input, of the store: the job meets it again
        if (facts := _describe(args)) is None:
            return
        compilation.keep_compiled_programs()  # which waits for the devices
        if program_store.is_on():
            program_store.begin_loading(facts, jax.local_devices())


def _describe(args):
    """Returns what tells one job's programs from another's, as a text; None for inputs that are no video files."""
    from stvsr_jax.video import media

    source = args.paths[0]
    if not source.is_file():
        return None
    with media.open_to_read(source) as container:
        stream = container.streams.video[0]
        size = stream.width, stream.height, stream.pix_fmt, str(stream.average_rate)
    given = sorted((name, repr(value)) for name, value in vars(args).items() if name not in _IGNORED)
    return f"upscale {size} {given}"
