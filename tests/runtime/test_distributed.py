"""Who joins whom, and requests to stop. Real processes and signals: tests/test_main.py."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from stvsr_jax.runtime import distributed
from tests.limits import HANG

COMPLETE = {"COORDINATOR_ADDRESS": "host:1234", "NUM_PROCESSES": "4", "PROCESS_ID": "3"}


@pytest.fixture
def joined(monkeypatch):
    """Return the arguments with which jax.distributed.initialize was called."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    return calls


def test_variables_are_handed_on(joined):
    distributed.initialize(COMPLETE)
    assert joined == [("host:1234", 4, 3)]


def test_without_variables_jax_looks_for_a_cluster(joined):
    distributed.initialize({"COORDINATOR_ADDRESS": ""})
    assert joined == [()]


@pytest.mark.parametrize("name", distributed.VARIABLES)
def test_incomplete_variables_are_named(joined, name):
    given = {key: value for key, value in COMPLETE.items() if key != name}
    with pytest.raises(
        ValueError, match=f"{', '.join(given)} is set but not {name}: set all of them or none"
    ):
        distributed.initialize(given)
    assert not joined


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PROCESS_ID": "4"}, "PROCESS_ID=4 must be a number from 0 to below NUM_PROCESSES=4"),
        ({"PROCESS_ID": "-1"}, "PROCESS_ID=-1"),
        ({"NUM_PROCESSES": "many"}, "NUM_PROCESSES=many"),
        ({"COORDINATOR_ADDRESS": "host"}, "COORDINATOR_ADDRESS=host must be host:port"),
    ],
)
def test_wrong_variables_are_named(joined, change, message):
    with pytest.raises(ValueError, match=message):
        distributed.initialize(COMPLETE | change)
    assert not joined


def test_process_without_a_cluster_is_alone():
    cluster = ("SLURM", "OMPI", "TPU", "JAX_COORD", *distributed.VARIABLES)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(cluster)}
    # A process of its own: this one has used JAX already.
    program = "import jax; from stvsr_jax.runtime import distributed; distributed.initialize(); "
    program += "assert not jax.distributed.is_initialized() and jax.process_count() == 1"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_errors_of_a_cluster_that_was_found_are_not_hidden(monkeypatch):
    def fail():
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match="Number of processes"):
        distributed.initialize({})


BUSY = """
import hashlib, sys, time
from stvsr_jax import command_line
from stvsr_jax.runtime import distributed

def end():
    print("saved", flush=True)
    raise command_line.StoppedError("stopped after step 7", stop.signal_number)

def work(count):
    # As in a compiler: no Python runs in this thread, but in others.
    began = time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", count)
    return time.monotonic() - began

second = int(10**5 / work(10**5))

with distributed.StopRequest() as stop:
    with stop.answered_by(end):
        pass
    print("ready", flush=True)
    if sys.argv[1] == "inside":
        with stop.answered_by(end):
            print("busy", flush=True)
            work(4 * second)
            print("not reached")
    print("busy", flush=True)
    work(second)
    print(stop.is_due(1))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_signal_is_answered_while_the_main_thread_is_busy(number, where):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n" and process.stdout.readline() == "busy\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG)
    if where == "inside":
        assert (process.returncode, out, err) == (128 + number, "saved\n", "stopped after step 7\n")
    else:
        assert (process.returncode, out, err) == (0, "True\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_is_a_request_and_the_second_what_it_was(number):
    before = signal.getsignal(number)
    with distributed.StopRequest() as stop:
        assert not stop.is_due(1)
        os.kill(os.getpid(), number)
        assert stop.is_due(2) and stop.signal_number == number
        assert signal.getsignal(number) is before
    with distributed.StopRequest() as stop:
        assert not stop.is_due(3)
    assert signal.getsignal(number) is before
