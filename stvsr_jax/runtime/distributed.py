"""Several processes as one run, and the request to stop that pre-emptible machines send."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping

import jax
from jax.experimental import multihost_utils

from stvsr_jax import command_line

VARIABLES = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of the run, if there are any; call it before anything else of JAX.

    COORDINATOR_ADDRESS (host:port of process 0), NUM_PROCESSES and PROCESS_ID say who they are. Without them JAX
    looks for a TPU pod, SLURM, Open MPI or Kubernetes, and where it finds none this process is alone.

    Raises:
      ValueError: some of the variables are missing, or are no numbers in range.
    """
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if not given:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            if "coordinator_address" not in str(error):  # what it says where it finds no cluster
                raise
        return
    if missing := [name for name in VARIABLES if name not in given]:
        raise ValueError(f"{', '.join(given)} is set but not {', '.join(missing)}: set all of them or none")
    address, count, index = given.values()
    if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
        raise ValueError(f"PROCESS_ID={index} must be a number from 0 to below NUM_PROCESSES={count}")
    if not address.rpartition(":")[2].isdigit():
        raise ValueError(f"COORDINATOR_ADDRESS={address} must be host:port")
    jax.distributed.initialize(address, int(count), int(index))


def guard(work: Callable[[], int | None]) -> int:
    """Does some work and returns the exit code as `command_line.guard` does; of several processes, one that fails ends here.

    The others wait for it in their next step, and JAX would let it wait for them at its exit, five minutes.
    """
    try:
        code = command_line.guard(work)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        code = command_line.FAILED
    if code in (command_line.FAILED, command_line.WRONG_INPUT) and jax.distributed.is_initialized():
        for child in multiprocessing.active_children():
            child.kill()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    return code


class StopRequest:
    """Turns SIGTERM, and the first Ctrl-C, into a question that the loop asks. Use as a context manager.

    With several processes the signal may reach them at different steps, or only one of them: JAX's
    coordination service takes it and names a step that all of them have yet to reach. Ctrl-C then interrupts.
    """

    def __init__(self):
        self.signal_number: int | None = None
        self._is_alone = jax.process_count() == 1
        self._before = {}

    def __enter__(self) -> "StopRequest":
        if self._is_alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    @contextlib.contextmanager
    def answered_by(self, end: Callable[[], None]) -> Iterator[None]:
        """Answers a signal at once that comes while the main thread is inside, as in the compiler, which takes a minute.

        Another thread then calls `end`, which saves and raises a StoppedError, and ends the process. With several
        processes the request waits for the next step.
        """
        if not self._before:
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._answer, args=(reader, end), name="answer")
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.write(writer, bytes(1))
            thread.join()  # if there was a signal the process ends meanwhile
            os.close(reader)
            os.close(writer)

    def _answer(self, reader, end):
        while (number := os.read(reader, 1)[0]) not in (signal.SIGTERM, signal.SIGINT):
            if number == 0:
                return
        self.signal_number = number

        def work():
            try:
                end()
            except command_line.StoppedError:
                raise
            except Exception as error:  # nobody above could catch it
                return command_line.fail(error)

        code = command_line.guard(work)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)

    def is_due(self, step: int) -> bool:
        """Whether to stop after this step; the same answer on all processes."""
        if not self._is_alone and multihost_utils.reached_preemption_sync_point(step):
            self.signal_number = signal.SIGTERM
        return self.signal_number is not None

    def _receive(self, number, frame):
        self.signal_number = number
        self._restore()  # the next one interrupts at once

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
