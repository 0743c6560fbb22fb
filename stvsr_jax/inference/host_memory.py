"""How much memory this machine, or the container this process is in, has to give."""

import os
import pathlib

_WITHOUT_KNOWLEDGE = 4 * 2**30


def available_memory(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Returns the bytes that can be had: what Linux calls available, or less where control groups allow less.

    Memory that caches files counts as available, since it is given back when it is needed.

    Args:
      root: of the file system with `proc` and `sys`.
    """
    known = [_of_the_machine(root), *_of_the_groups(root)]
    return max(0, min((size for size in known if size is not None), default=_WITHOUT_KNOWLEDGE))


def _of_the_machine(root):
    facts = _read_table(root / "proc/meminfo")
    if "MemAvailable:" in facts:
        return facts["MemAvailable:"] * 1024
    if root == pathlib.Path("/") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_the_groups(root):
    """Yields what the control groups of this process, and those above them, have left of their limits."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        # Inside a container the path may be that of the host, of which only the top is there to be seen.
        parts = pathlib.PurePosixPath(path).parts[1:]
        for depth in range(len(parts) + 1):
            group = top.joinpath(*parts[:depth])
            most, used = _read_number(group / limit), _read_number(group / usage)
            if most is not None and used is not None:
                yield most - used + _read_table(group / "memory.stat").get(cache, 0)


def _read_number(file):
    """Returns the number in a file, None if there is none ("max")."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _read_table(file):
    """Returns the numbers that stand second in each line of a file, by the words before them."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
