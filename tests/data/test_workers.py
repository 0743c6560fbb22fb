"""Worker processes end with the process that started them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.limits import HANG

FOLDER = os.path.dirname(__file__)
# A worker of each pool that there is; it prints its number and keeps working.
POOLS = {
    "grain": """
        import numpy as np
        from stvsr_jax.data import pipeline
        from stvsr_jax.data.pipeline import grain

        def make(number):
            print(os.getpid(), flush=True)
            time.sleep(0.01)
            return np.zeros(number % 3)

        dataset = grain.MapDataset.range(10**6).map(make)
        batches = pipeline.TrainBatches(dataset, grain.ReadOptions(1, 1), num_workers=1)
        for _ in batches.start_at(0):
            pass
        """,
    "processes": """
        import concurrent.futures, multiprocessing
        from stvsr_jax.data.workers import end_with_parent

        def make(number):
            print(os.getpid(), flush=True)
            time.sleep(0.01)

        with concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
        ) as pool:
            list(pool.map(make, range(10**6)))
        """,
}


def is_running(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("pool", POOLS)
def test_workers_end_when_their_parent_is_killed(tmp_path, pool):
    lines = [line.removeprefix(" " * 8) for line in POOLS[pool].strip("\n").splitlines()]
    functions = [n for n, line in enumerate(lines) if line.startswith(("dataset", "with"))][0]
    source = "import os, time\n" + "\n".join(lines[:functions]) + '\nif __name__ == "__main__":\n'
    source += "\n".join("    " + line for line in lines[functions:])
    (tmp_path / "main.py").write_text(source)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "main.py"], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    try:
        worker = int(parent.stdout.readline())
        assert worker != parent.pid and is_running(worker)
        if pool == "grain":  # meant for the run, which the worker goes on to serve
            os.kill(worker, signal.SIGTERM)
        time.sleep(0.2)
        assert is_running(worker)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + HANG
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)
