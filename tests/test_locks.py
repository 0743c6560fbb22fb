"""Locks between processes."""

import signal
import subprocess
import sys
import threading

import pytest

from stvsr_jax import locks
from stvsr_jax.locks import in_turn, only_one
from tests.limits import HANG

HOLD = """
import pathlib, sys, time
from stvsr_jax.locks import only_one
with only_one(pathlib.Path(sys.argv[1]), "tried"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_held_once_and_ends_with_its_process(tmp_path):
    file = tmp_path / "new" / ".lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=f"{tmp_path}/new is being tried by another process"):
        with only_one(file, "being tried"):
            pytest.fail("the lock is held")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for _ in range(2):
        with only_one(file, "tried"):
            with pytest.raises(BlockingIOError), only_one(file, "tried"):
                pytest.fail("the lock is held here")


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(KeyError), only_one(tmp_path / "a", "tried"):
        raise KeyError
    with only_one(tmp_path / "a", "tried"):
        pass


def test_others_wait_and_each_process_says_so_once_and_late(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "_told", [])
    order = []

    def work():
        with in_turn(tmp_path / "new" / "a.lock", "another process that tries"):
            order.append("waited")

    for patience in (60, 0.1, 0.1):
        monkeypatch.setattr(locks, "_PATIENCE", patience)
        with in_turn(tmp_path / "new" / "a.lock", "another process that tries"):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(timeout=0.5)
            assert thread.is_alive()
            order.append("held")
        thread.join(timeout=HANG)
        told = [record.getMessage() for record in caplog.records]
        assert told == (
            [] if patience == 60 else [f"waiting for another process that tries, into {tmp_path}/new"]
        )
    assert order == ["held", "waited"] * 3
