"""Begins what a start waits for longest while Python still imports: the device, and the programs of the last such job.

Which programs a job needs is known once its modules are imported, its input is read and its network is there. So a job
notes their names (`remember`), and the next one with the same arguments and an input of the same size loads them from
the start. That changes nothing but the time: a program is found under its name only if it is the right one.
"""

import argparse
import concurrent.futures
import contextlib
import gc
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence

from stvsr_jax.inference import device_processes

# Arguments that decide nothing about the programs.
_IGNORED = "paths overwrite crf preset segment max_frames preview input_fps shard decoder".split()


@contextlib.contextmanager
def begun(args: argparse.Namespace) -> Iterator[list[device_processes.DeviceProcess]]:
    """Inside, the device is woken and programs are loaded by threads; imports JAX.

    Where there are three GPUs or more, a process for each does that, and JAX has only the CPU in this one. From then on XLA
    takes a GPU's memory as it needs it, unless the environment says otherwise: to take three quarters at once costs
    1.3 s of an H200's start, and leaves little to other programs.

    Args:
      args: of `stvsr upscale`.

    Yields:
      The processes, none if there are at most two GPUs.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with contextlib.ExitStack() as stack:
        starting = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)).submit(_start_processes)
        with importing():
            import jax

            processes = starting.result()  # the driver has woken meanwhile
            stack.callback(device_processes.close, processes)
            if processes:
                jax.config.update("jax_platforms", "cpu")
            else:
                _begin(stack, _wake_devices)
            # What threads need is imported by this one: of modules that import each other they might find one half done.
            from stvsr_jax.runtime import compilation, program_store  # noqa: F401
            from stvsr_jax.video import media  # noqa: F401

        _begin(stack, _load, args, processes)
        stack.callback(device_processes.close, processes)  # before their thread is waited for
        yield processes


def wake() -> None:
    """Imports what the process of a device needs, while its device wakes."""
    with contextlib.ExitStack() as threads:
        _begin(threads, device_processes.count_gpus)
        with importing():
            import jax  # noqa: F401

            _begin(threads, _wake_devices)
            from stvsr_jax.inference import device_network  # noqa: F401


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


def remember(
    args: argparse.Namespace,
    source: pathlib.Path,
    processes: Sequence[device_processes.DeviceProcess] = (),
) -> None:
    """Notes the programs that were used so far for the next job like it, if `source` is its first input.

    Args:
      args: of `stvsr upscale`.
      source: of the job.
      processes: that used them, all the same ones; none: this process.
    """
    with contextlib.suppress(Exception):  # the input may be gone by now: the next start is slower
        if source == args.paths[0] and (facts := _describe(args)) is not None:
            processes[0].call(_remember, facts) if processes else _remember(facts)


def _remember(facts):
    import jax

    from stvsr_jax.runtime import program_store

    program_store.remember(facts, jax.local_devices())


def _start_processes():
    return device_processes.start(device_processes.count_needed())


def _wake_devices():
    import jax

    with contextlib.suppress(RuntimeError):  # who needs them meets it again
        jax.local_devices()


def _load(args, processes):
    with contextlib.suppress(Exception):  # of the input, of the store: the job meets it again
        if (facts := _describe(args)) is None:
            return
        if processes:
            with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
                list(pool.map(lambda process: process.call(_begin_loading, facts), processes))
        else:
            _begin_loading(facts)


def _begin_loading(facts):
    import jax

    from stvsr_jax.runtime import compilation, program_store

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
