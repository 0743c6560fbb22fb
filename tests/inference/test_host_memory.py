"""Memory of machines and containers, by the files in which Linux tells it."""

import pytest

from stvsr_jax.inference.host_memory import available_memory

GIB = 2**30


def make_root(folder, files):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


MEMINFO = (
    f"MemTotal: {32 * 2**20} kB\nMemFree: {1 * 2**20} kB\nMemAvailable: {20 * 2**20} kB\nHugePages_Total: 0\n"
)
V2 = "sys/fs/cgroup/"
V1 = "sys/fs/cgroup/memory/"
CASES = {
    "no limit": ({}, 20),
    "no group known": ({"proc/self/cgroup": "0::/\n"}, 20),
    "a limit": (
        {
            "proc/self/cgroup": "0::/job\n",
            V2 + "job/memory.max": f"{8 * GIB}\n",
            V2 + "job/memory.current": f"{3 * GIB}\n",
            V2 + "job/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\n",
        },
        7,
    ),
    "max is no limit": (
        {
            "proc/self/cgroup": "0::/job\n",
            V2 + "job/memory.max": "max\n",
            V2 + "job/memory.current": f"{3 * GIB}\n",
        },
        20,
    ),
    "a limit further up": (
        {
            "proc/self/cgroup": "0::/slice/job\n",
            V2 + "slice/memory.max": f"{6 * GIB}\n",
            V2 + "slice/memory.current": f"{2 * GIB}\n",
            V2 + "slice/job/memory.max": "max\n",
            V2 + "slice/job/memory.current": f"{1 * GIB}\n",
        },
        4,
    ),
    "the path of the host": (
        {
            "proc/self/cgroup": "0::/docker/0123\n",
            V2 + "memory.max": f"{5 * GIB}\n",
            V2 + "memory.current": f"{2 * GIB}\n",
        },
        3,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "9:cpu,cpuacct:/\n7:memory:/docker/0123\n",
            V1 + "memory.limit_in_bytes": f"{9 * GIB}\n",
            V1 + "memory.usage_in_bytes": f"{4 * GIB}\n",
            V1 + "memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n",
        },
        6,
    ),
    "version 1 without a limit": (
        {
            "proc/self/cgroup": "7:memory:/\n",
            V1 + "memory.limit_in_bytes": "9223372036854771712\n",
            V1 + "memory.usage_in_bytes": f"{4 * GIB}\n",
        },
        20,
    ),
    "more used than allowed": (
        {
            "proc/self/cgroup": "0::/\n",
            V2 + "memory.max": f"{2 * GIB}\n",
            V2 + "memory.current": f"{3 * GIB}\n",
        },
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_tightest_bound_counts(tmp_path, name):
    files, expected = CASES[name]
    assert available_memory(make_root(tmp_path, {"proc/meminfo": MEMINFO, **files})) == expected * GIB


def test_without_knowledge_it_is_little(tmp_path):
    assert available_memory(tmp_path) == 4 * GIB


def test_this_machine_has_some():
    assert 2**26 < available_memory() < 2**50
