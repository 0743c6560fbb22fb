"""Processes that call functions of the standard library: answers, errors, and every way to end."""

import concurrent.futures
import ctypes
import operator
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time
import types
from multiprocessing.connection import Pipe

import pytest

from stvsr_jax.inference import device_processes
from tests.limits import HANG


@pytest.fixture(scope="module")
def two():
    with device_processes.started(2) as processes:
        yield processes


@pytest.fixture
def one():
    process = device_processes.DeviceProcess(3, dict(os.environ))
    yield process
    device_processes.close([process])


def pool_sum(one, other):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return sum(pool.map(int, (one, other)))


def is_running(number):
    try:
        status = pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"  # ended, and whoever reaps it has not yet


def wait_until_ended(*numbers):
    end = time.monotonic() + HANG
    while any(map(is_running, numbers)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_function_runs_in_each_of_different_processes(two):
    assert [process.call(operator.add, 40, 2) for process in two] == [42, 42]
    assert len({os.getpid(), *(process.call(os.getpid) for process in two)}) == 3


def test_a_called_function_may_start_threads(one):
    assert one.call(operator.add, 1, 1) == 2  # it has started, and its main thread waits
    time.sleep(0.2)
    assert one.call(pool_sum, 40, 2) == 42


def test_as_many_calls_as_lanes_run_at_a_time_and_others_wait(two):
    count = device_processes.LANES
    two[0].call(abs, 0)  # it has started
    with concurrent.futures.ThreadPoolExecutor(2 * count) as pool:
        began = time.monotonic()
        list(pool.map(lambda _: two[0].call(time.sleep, 0.5), range(2 * count)))
        assert 1.0 <= time.monotonic() - began < 0.5 * 2 * count


def test_an_error_comes_out_with_its_message_and_where_it_was_raised(two):
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        two[0].call(operator.truediv, 1, 0)
    assert "device_processes.py" in caught.value.__notes__[0]
    assert two[0].call(abs, -1) == 1  # it goes on


class NoPickle(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def test_an_error_that_cannot_be_pickled_keeps_its_message():
    error = pickle.loads(pickle.dumps(device_processes._portable(NoPickle(1, 2))))
    assert isinstance(error, ChildProcessError) and str(error) == "NoPickle: 1 and 2"


def test_what_fails_at_the_start_is_the_answer_to_every_call():
    ours, theirs = Pipe()
    failed = concurrent.futures.Future()
    failed.set_exception(ImportError("no such library"))
    thread = threading.Thread(target=device_processes._answer, args=(theirs, failed))
    thread.start()
    for _ in range(2):
        ours.send((abs, (1,)))
        is_done, error = ours.recv()
        assert not is_done and isinstance(error, ImportError) and str(error) == "no such library"
    ours.close()
    thread.join(HANG)
    assert not thread.is_alive()


def test_each_sees_one_of_the_gpus_that_the_parent_sees(monkeypatch):
    for given, expected in ((None, ["0", "1"]), ("5, GPU-b,7", ["5", "GPU-b"])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if given:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        seen = []
        monkeypatch.setattr(
            device_processes,
            "DeviceProcess",
            lambda number, environment, seen=seen: seen.append(environment["CUDA_VISIBLE_DEVICES"]),
        )
        device_processes.start(2)
        assert seen == expected


def test_three_gpus_or_more_need_processes(monkeypatch):
    for gpus, most, expected in (
        (0, None, 0),
        (1, None, 0),
        (2, None, 0),
        (3, None, 3),
        (4, 3, 3),
        (4, 2, 0),
        (3, 8, 3),
    ):
        monkeypatch.setattr(device_processes, "count_gpus", lambda gpus=gpus: gpus)
        assert device_processes.count_needed(most) == expected
    assert device_processes.start(0) == []


@pytest.mark.parametrize(
    ("variables", "plugins", "expected"),
    [
        ({}, ["xla_cuda13"], 4),
        ({"JAX_PLATFORMS": "cuda,cpu"}, ["xla_cuda12"], 4),
        ({"JAX_PLATFORMS": "cpu"}, ["xla_cuda13"], 0),
        ({"JAX_CUDA_VISIBLE_DEVICES": "1"}, ["xla_cuda13"], 0),
        ({}, ["other"], 0),
    ],
)
def test_gpus_count_where_jax_would_use_them(monkeypatch, tmp_path, variables, plugins, expected):
    def count(number):
        number._obj.value = 4
        return 0

    driver = types.SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGetCount=count)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(device_processes.importlib.util, "find_spec", lambda name: spec)
    for name in ("JAX_PLATFORMS", "JAX_CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in plugins:
        (tmp_path / f"{name}.py").touch()
    assert device_processes.count_gpus() == expected


def test_without_a_driver_there_are_none(monkeypatch):
    def fail(name):
        raise OSError(name)

    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert device_processes.count_gpus() == 0


def test_a_killed_process_is_an_error_at_once_for_all_calls(one):
    number = one.call(os.getpid)
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(one.call, time.sleep, HANG) for _ in range(5)]
        time.sleep(0.1)
        os.kill(number, signal.SIGKILL)
        for call in calls:
            with pytest.raises(ChildProcessError, match="process of GPU 3 was ended by SIGKILL"):
                call.result(HANG)
    with pytest.raises(ChildProcessError, match="SIGKILL"):
        one.call(abs, 1)


def test_a_process_that_ends_itself_says_how(one):
    with pytest.raises(ChildProcessError, match="by itself with exit code 7"):
        one.call(os._exit, 7)


def test_signals_that_go_to_all_processes_are_the_parents(one):
    number = one.call(os.getpid)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        os.kill(number, signal_number)
    assert one.call(abs, -1) == 1
    assert one.call(os.getsid, 0) == number


def test_closing_ends_calls_under_way_and_may_be_repeated(one):
    number = one.call(os.getpid)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(one.call, time.sleep, HANG)
        time.sleep(0.1)
        for _ in range(2):
            device_processes.close([one])
        with pytest.raises(ChildProcessError):
            call.result(HANG)
    assert not is_running(number)


@pytest.mark.parametrize("is_busy", [False, True])
def test_they_end_with_a_parent_that_is_killed(is_busy):
    code = f"""if True:
        import os, threading, time
        from stvsr_jax.inference import device_processes
        processes = device_processes.start(2)
        print(*(process.call(os.getpid) for process in processes), flush=True)
        while {is_busy}:
            processes[0].call(time.sleep, {HANG})
        time.sleep({HANG})
    """
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    numbers = list(map(int, parent.stdout.readline().split()))
    assert len(numbers) == 2 and all(map(is_running, numbers))
    parent.kill()
    parent.communicate(timeout=HANG)
    wait_until_ended(*numbers)


def test_memory_has_no_name_that_could_be_left_behind(one):
    os.ftruncate(one.memory, 2**20)
    assert one.call(os.fstat, one.memory).st_size == 2**20
    link = f"/proc/self/fd/{one.memory}"
    assert os.readlink(link) == one.call(os.readlink, link) == "/memfd:stvsr (deleted)"
