"""What all command lines share: the error line, the exit codes, the answer to signals. Imports nothing heavy.

Exit codes: 0 done, 2 the input is wrong (found before the work began), 1 an error later on, 130 stopped by Ctrl-C, 143 by
SIGTERM. What is wrong is one line on stderr, "error: ..."; with the variable STVSR_TRACEBACK set, after its traceback.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence

FAILED = 1
WRONG_INPUT = 2
# Errors of libraries, by the module that has them; one that is not loaded cannot raise them.
_LIBRARY_ERRORS = {"av": "FFmpegError", "jax.errors": "JaxRuntimeError"}


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class FailedError(Exception):
    """An error after the work had begun."""


class StoppedError(Exception):
    """The work was asked to stop by a signal, and has kept what is done; the message says how to go on."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def new_parser(prog: str, description: str, *, usage: str | None = None) -> argparse.ArgumentParser:
    """Returns a parser without arguments, which takes no abbreviated flags: a flag added later must not change a command.

    Args:
      prog: what the user typed.
      description: of the command, for --help.
      usage: for --help, if not made from the arguments.
    """
    return argparse.ArgumentParser(prog=prog, description=description, usage=usage, allow_abbrev=False)


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parses a command line, does its work and returns the exit code.

    Args:
      parser: of the arguments.
      work: gets them; returns an exit code, None for 0.
      argv: the arguments; None for those of this process.
    """
    _print_any_name()
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its own message
        return int(stop.code or 0)
    return guard(lambda: work(args))


def guard(work: Callable[[], int | None]) -> int:
    """Does some work and returns the exit code; what goes wrong, as far as a user can mend it, is one line."""
    _print_any_name()
    try:
        with _raising_on_sigterm():
            return work() or 0
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal_number
    except KeyboardInterrupt as stop:
        name, number = (
            ("SIGTERM", signal.SIGTERM) if isinstance(stop, Terminated) else ("Ctrl-C", signal.SIGINT)
        )
        print("; ".join([f"stopped by {name}", *map(str, stop.args)]), file=sys.stderr)
        return 128 + number
    except (FailedError, *expected_errors()) as error:
        if os.environ.get("STVSR_TRACEBACK"):
            traceback.print_exc()
        return fail(error, FAILED if isinstance(error, FailedError) else WRONG_INPUT)


def _print_any_name():
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8


def expected_errors() -> tuple[type[Exception], ...]:
    """Returns the errors that a user's input or machine causes."""
    found = [ValueError, NotImplementedError, OSError, ArithmeticError, MemoryError]
    for module, name in _LIBRARY_ERRORS.items():
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def fail(error: object, code: int = WRONG_INPUT) -> int:
    """Prints the error line and returns the exit code."""
    print(f"error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return code


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Inside, the work has begun: an expected error is raised as a FailedError."""
    try:
        yield
    except expected_errors() as error:
        raise FailedError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def resumable(way_on: str) -> Iterator[None]:
    """Inside, a stop says how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise type(stop)(way_on) from None


@contextlib.contextmanager
def stop_requests(message: str) -> Iterator[list[int]]:
    """Gives a list that is filled with the number of the signal that asks to stop; the second stops at once.

    Args:
      message: printed at the first.
    """
    received = []

    def handle(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print(f"\n{message}", file=sys.stderr)

    with _handling(handle, signal.SIGINT, signal.SIGTERM):
        yield received


def ending_at_once() -> contextlib.AbstractContextManager[None]:
    """Inside, nothing can be lost yet: Ctrl-C and SIGTERM end the process at once.

    An exception might never arrive: Python drops what is raised while it calls JAX back from its garbage collector, and
    some modules drop what is raised while they are imported.
    """

    def handle(number, frame):
        name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
        os.write(2, f"stopped by {name}\n".encode())  # whatever else is being printed
        os._exit(128 + number)

    return _handling(handle, signal.SIGINT, signal.SIGTERM)


def _raising_on_sigterm():
    def handle(number, frame):
        signal.signal(number, signal.SIG_DFL)  # the next one ends the process at once
        raise Terminated

    return _handling(handle, signal.SIGTERM)


@contextlib.contextmanager
def _handling(handle, *numbers):
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
