"""A process for each GPU: started, asked to call functions, ended. Imports nothing heavy, so that they can start first.

One Python process starts the kernels of two GPUs fast enough, not those of four. Each process here sees one GPU as its
only one. It is asked through a few connections ("lanes"), and answers each in a thread of its own; large arrays lie in a
file in memory (`memfd`) that it shares with its parent and that has no name. It ends when its parent does, however that
ends: then its connections do.
"""

import concurrent.futures
import contextlib
import ctypes
import importlib.util
import os
import pickle
import pkgutil
import queue
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

# Two are served by one process at 1.9 times the rate of one, and its first frame comes earlier.
_FEWEST = 3
# Calls that a process works on at a time: while the results of one are fetched its device runs the next.
LANES = 3
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# For a killed process to be gone.
_END_SECONDS = 10.0


def count_gpus() -> int:
    """Returns how many NVIDIA GPUs JAX will find, 0 if it is to use others; wakes their driver, a part of what JAX does first."""
    platforms = os.environ.get("JAX_PLATFORMS") or "cuda"
    if platforms.split(",")[0] not in ("cuda", "gpu") or "JAX_CUDA_VISIBLE_DEVICES" in os.environ:
        return 0
    found = importlib.util.find_spec("jax_plugins")
    plugins = pkgutil.iter_modules(found.submodule_search_locations) if found else ()
    if not any(plugin.name.startswith("xla_cuda") for plugin in plugins):
        return 0
    count = ctypes.c_int()
    with contextlib.suppress(OSError, AttributeError):  # there is no driver
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0


def count_needed(most: int | None = None) -> int:
    """Returns how many processes serve the GPUs, of which at most `most` are used; 0 where this process does."""
    count = count_gpus()
    used = min(most or count, count)
    return used if used >= _FEWEST else 0


def start(count: int) -> list["DeviceProcess"]:
    """Starts a process for each of the first so many GPUs that this one sees, all at once."""
    given = os.environ.get(_VISIBLE)
    names = [str(number) for number in range(count)] if given is None else given.split(",")[:count]
    processes = []
    try:
        for number, name in enumerate(names):
            processes.append(DeviceProcess(number, os.environ | {_VISIBLE: name.strip()}))
    except BaseException:
        close(processes)
        raise
    return processes


def close(processes: Sequence["DeviceProcess"]) -> None:
    """Ends processes at once, whatever they do; again does nothing."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


@contextlib.contextmanager
def started(count: int) -> Iterator[list["DeviceProcess"]]:
    """Gives what `start` returns; they end with the block."""
    processes = start(count)
    try:
        yield processes
    finally:
        close(processes)


class DeviceProcess:
    """A process that calls functions.

    Args:
      number: of its device, for messages.
      environment: its variables.

    Attributes:
      memory: the file that both can map; a number that holds in both.
    """

    def __init__(self, number: int, environment: dict[str, str]):
        self._number = number
        self.memory = os.memfd_create("stvsr")
        weakref.finalize(self, os.close, self.memory)
        pairs = [Pipe() for _ in range(1 + LANES)]
        handles = [theirs.fileno() for _, theirs in pairs]
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from stvsr_jax.inference import device_processes, early_start; "
            f"device_processes.serve({handles}, early_start.wake)"
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                pass_fds=(self.memory, *handles),
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__.fileno(),  # what is printed is never part of a result
                start_new_session=True,  # Ctrl-C is the parent's
            )
        finally:
            for _, theirs in pairs:
                theirs.close()
        # The first connection says that this process lives.
        self._life, *lanes = [ours for ours, _ in pairs]
        self._lanes = queue.SimpleQueue()
        for lane in lanes:
            self._lanes.put(lane)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns what the process returns; see `send`."""
        return self.send(pickle.dumps((function, args)))

    def send(self, request: bytes) -> Any:
        """Calls a function there and returns what it returns; waits for a lane, and until the process has started.

        Args:
          request: the function, which a module has under its name, and its arguments, pickled as a pair.

        Raises:
          ChildProcessError: the process has ended.
          Exception: what the function raised.
        """
        lane = self._lanes.get()
        try:
            lane.send_bytes(request)
            is_done, result = lane.recv()
        except (EOFError, OSError):
            raise ChildProcessError(self._describe_end()) from None
        except BaseException:  # of a signal: an answer is still to come
            self.kill()
            raise
        finally:
            self._lanes.put(lane)
        if not is_done:
            raise result
        return result

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def wait(self) -> None:
        """Waits for its end, but not for ever."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)

    def _describe_end(self):
        self.wait()
        code = self._process.returncode
        if code is None or code >= 0:
            return f"the process of GPU {self._number} ended by itself with exit code {code}"
        reason = " (the machine's memory may have run out)" if code == -signal.SIGKILL else ""
        return f"the process of GPU {self._number} was ended by {signal.Signals(-code).name}{reason}"


def serve(handles: Sequence[int], prepare: Callable[[], None]) -> None:
    """Answers calls until the parent ends; what a process of `DeviceProcess` does.

    Args:
      handles: of the connections.
      prepare: called before the first call is answered; what it raises is the answer to all.
    """
    # They may come to all processes: the parent's answer counts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    life, *lanes = map(Connection, handles)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    ready = concurrent.futures.Future()
    answering = [threading.Thread(target=_answer, args=(lane, ready)) for lane in lanes]
    for thread in answering:
        thread.start()
    try:
        prepare()
        ready.set_result(None)
    except BaseException as error:
        ready.set_exception(error)
    for thread in answering:  # without the main thread Python starts no threads for what is called
        thread.join()


def _end_with(life):
    life.poll(None)
    os._exit(0)


def _answer(lane, ready):
    with contextlib.suppress(EOFError, OSError):  # nobody asks any more
        while True:
            request = lane.recv_bytes()
            try:
                ready.result()
                function, args = pickle.loads(request)  # which may import what `prepare` has imported
                reply = pickle.dumps((True, function(*args)))
            except BaseException as error:
                reply = pickle.dumps((False, _portable(error)))
            lane.send_bytes(reply)


def _portable(error):
    """Returns the error with its traceback as a note, or another that says the same if it cannot be pickled."""
    note = f"in the process of its device:\n{''.join(traceback.format_exception(error))}"
    try:
        copied = pickle.loads(pickle.dumps(error))
        if str(copied) != str(error):
            raise ValueError("its message is lost")
    except Exception:  # whatever the classes of libraries do
        copied = ChildProcessError(f"{type(error).__name__}: {error}")
    copied.add_note(note)
    return copied
