"""Exit codes, the error line and signals of all command lines."""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time

import av
import jax
import pytest

from stvsr_jax import command_line
from tests.limits import HANG


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog="tool")
    parser.add_argument("--count", type=int, default=1)
    return parser


def test_work_gets_the_arguments_and_says_the_exit_code(parser):
    assert command_line.run(parser, lambda args: args.count, ["--count", "7"]) == 7
    assert command_line.run(parser, lambda args: None, []) == 0


def test_wrong_arguments_and_help_do_no_work(parser, capsys):
    assert command_line.run(parser, None, ["--count", "many"]) == 2
    assert "usage: tool" in capsys.readouterr().err
    assert command_line.run(parser, None, ["--help"]) == 0


def test_errors_of_the_input_are_one_line_and_two(capsys):
    kinds = [ValueError, OSError, FileNotFoundError, NotImplementedError, FloatingPointError, OverflowError]
    kinds += [jax.errors.JaxRuntimeError, lambda text: av.error.InvalidDataError(1, text)]
    for kind in kinds:

        def work(kind=kind):
            raise kind("a\nb  c")

        assert command_line.guard(work) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "a b c" in error and error.count("\n") == 1
    with pytest.raises(KeyError):  # a fault of the program is not hidden
        command_line.guard(lambda: {}["a"])


def test_error_without_a_text_is_named(capsys):
    assert command_line.fail(MemoryError()) == 2
    assert capsys.readouterr().err == "error: MemoryError\n"


def test_traceback_is_shown_on_request(monkeypatch, capsys):
    monkeypatch.setenv("STVSR_TRACEBACK", "1")
    assert command_line.guard(lambda: int("x")) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error and error.splitlines()[-1].startswith("error: invalid literal")


def test_errors_after_the_work_began_are_code_one(capsys):
    def work():
        with command_line.working():
            raise OSError("no space")

    assert command_line.guard(work) == 1
    assert capsys.readouterr().err == "error: no space\n"


@pytest.fixture
def answers_ctrl_c():
    """Has SIGINT raise KeyboardInterrupt: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_signals_end_the_work_with_a_line_that_says_how_to_go_on(number, name, code, capsys, answers_ctrl_c):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    cleaned = []

    def work():
        try:
            with command_line.resumable("the same command goes on"):
                os.kill(os.getpid(), number)
                time.sleep(60)
        finally:
            cleaned.append(True)

    assert command_line.guard(work) == code
    assert cleaned and capsys.readouterr().err == f"stopped by {name}; the same command goes on\n"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_second_sigterm_ends_the_process_at_once():
    code = """if True:
        import time
        from stvsr_jax import command_line
        def work():
            try:
                print("ready", flush=True)
                time.sleep(60)
            finally:
                print("cleaning", flush=True)
                time.sleep(60)
        command_line.guard(work)
    """
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for word in ("ready", "cleaning"):
        assert process.stdout.readline() == f"{word}\n"
        process.terminate()
    assert process.wait(HANG) == -signal.SIGTERM
    process.stdout.close()


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_signals_end_a_start_where_python_drops_exceptions(number, name):
    code = f"""if True:
        import gc, os
        from stvsr_jax import command_line

        def collected(phase, info):
            os.kill(os.getpid(), {int(number)})
            for _ in range(100):
                pass

        def work():
            with command_line.ending_at_once():
                gc.callbacks.append(collected)
                gc.collect()
                print("went on")

        command_line.guard(work)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == f"stopped by {name}\n"


def test_stop_that_kept_its_state_says_so_with_the_code_of_its_signal(capsys):
    def work():
        raise command_line.StoppedError("saved", signal.SIGTERM)

    assert command_line.guard(work) == 143
    assert capsys.readouterr().err == "saved\n"


def test_first_request_to_stop_is_noted_and_the_second_interrupts(capsys):
    with command_line.stop_requests("stopping soon") as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM] and "stopping soon" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_leave_signals_alone():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(command_line.guard(lambda: 3)))
    thread.start()
    thread.join()
    assert codes == [3]
