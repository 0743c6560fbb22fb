"""What was found out about clips by reading all their frames: made by one of the processes that want it, and kept.

An entry is some files named VERSION-DIGEST: .json (facts), .npy (thumbnails), .tiles, and .lock, held by the process that
writes the others. The folder of the entries is bounded: they leave, least recently used first, but none that a running process
uses. A process names the entries that it uses in a file in `users`, before it looks for them, and holds a lock beside it until it
ends, however it ends. To change what is used, and to remove anything, takes the lock of the folder.
"""

import collections
import contextlib
import errno
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stvsr_jax import files, locks

# Part of the files' names: raise it if the meaning of an entry changes. Entries of lower ones are removed.
VERSION = 5
# Of the disk's free space and the entries' own, what these may take.
SHARE = 0.9
_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_FILE = re.compile(
    r"(?P<entry>((?P<version>\d+)-)?[0-9a-f]{24})(?P<draft>\.[0-9a-f]{32}\.draft)?\.(avi|json|lock|npy|tiles)"
)


def entry_of(cache_dir: str | os.PathLike | None, facts: list[Any]) -> Path:
    """Returns the path, without suffix, of the entry for `facts`; see `files.entry_path`."""
    entry = files.entry_path(cache_dir, "videos", facts)
    return entry.with_name(f"{VERSION}-{entry.name}")


def load(
    entry: Path, scan: Callable[[], tuple[dict[str, Any], np.ndarray]]
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns what an entry holds; uses it as long as this process runs.

    Args:
      entry: its path, without suffix.
      scan: makes it if it is not there, in one process at a time. Returns JSON data, with `num_frames` and `media` (the file
        that frames are read from, '' if there are several), and the thumbnails of all frames, uint8 [num_frames, h, w, 3].
    """
    use([entry])
    if (known := _read(entry)) is not None:
        return known
    with locks.in_turn(entry.with_suffix(".lock"), "another process that scans a clip"):
        if (known := _read(entry)) is not None:  # by now
            return known
        facts, thumbnails = scan()
        files.write_array(entry.with_suffix(".npy"), thumbnails)
        files.write_json(entry.with_suffix(".json"), facts)
        return facts, thumbnails


def _read(entry):
    """Returns what an entry holds, None if it is not whole."""
    facts = files.read_json(entry.with_suffix(".json"))
    if facts is None or facts["media"] and not Path(facts["media"]).is_file():
        return None
    thumbnails = files.read_array(entry.with_suffix(".npy"))
    is_whole = thumbnails is not None and len(thumbnails) == facts["num_frames"]
    return (facts, thumbnails) if is_whole else None


def use(entries: Iterable[Path]) -> None:
    """Keeps entries from being removed as long as this process runs.

    Args:
      entries: paths without suffix, there or not yet.
    """
    folders = collections.defaultdict(set)
    for entry in entries:
        folders[entry.parent].add(entry.name)
    for folder, names in folders.items():
        try:
            with _users_lock:
                user = _users.get((folder, os.getpid()))
                if user is None or not names <= user.names:
                    with _turn(folder):
                        user = _users[folder, os.getpid()] = user or _User(folder)
                        user.add(names - user.names)
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            # What is there can be used all the same.
        for name in names:
            with contextlib.suppress(OSError):
                os.utime(folder / f"{name}.json")


class _User:
    """What this process uses of a folder."""

    def __init__(self, folder: Path):
        name = uuid.uuid4().hex
        self.names = set()
        self._file = folder / "users" / f"{name}.txt"
        self._held = contextlib.ExitStack()  # until the process ends
        self._held.enter_context(locks.only_one(self._file.with_suffix(".lock"), "used"))
        self._file.touch()

    def add(self, names: set[str]) -> None:
        with open(self._file, "a") as file:
            file.writelines(f"\n{name}" for name in names)  # whole lines, whatever a full disk cut before
        self.names |= names


_users: dict[tuple[Path, int], _User] = {}  # by folder and process
_users_lock = threading.Lock()


def tidy(folder: Path, cache_gb: float = 0.0) -> int:
    """Removes what is of no use any more, and as many entries as exceed the bound.

    Of no use are entries of earlier versions, and what killed processes have begun to write. Files with other names stay.

    Args:
      folder: of the entries.
      cache_gb: what they may take, in 1e9 bytes; 0: SHARE of the disk's free space and their own.

    Returns:
      The bytes left to the bound; below 0 where what running processes use exceeds it.
    """
    with _turn(folder):
        used = _find_used(folder)
        entries = collections.defaultdict(dict)  # the files of each, with their status
        for file in os.scandir(folder):
            if (known := _FILE.fullmatch(file.name)) is None:
                continue
            with contextlib.suppress(FileNotFoundError):  # renamed by its writer
                is_old = int(known["version"] or 0) < VERSION
                if is_old or known["draft"] and not _is_written(folder, known["entry"], used):
                    os.unlink(file.path)
                else:
                    entries[known["entry"]][file.name] = file.stat()
        sizes = {name: sum(s.st_size for s in files.values()) for name, files in entries.items()}
        last_used = {name: max(s.st_mtime for s in files.values()) for name, files in entries.items()}
        total = sum(sizes.values())
        bound = round(cache_gb * 1e9 or SHARE * (shutil.disk_usage(folder).free + total))
        for name in sorted(entries.keys() - used, key=last_used.get):
            if total > bound or f"{name}.json" not in entries[name]:
                for file in sorted(entries[name]):  # .json, which says that the others are there, first
                    (folder / file).unlink(missing_ok=True)
                total -= sizes[name]
        return bound - total


def check_room(folder: Path, cache_gb: float = 0.0) -> None:
    """Raises OSError if what running processes use exceeds the bound; see `tidy`."""
    if tidy(folder, cache_gb) < 0:
        bound = f"{cache_gb:g} GB" if cache_gb else f"{100 * SHARE:.0f} % of the disk's free space"
        raise OSError(
            errno.ENOSPC,
            f"the clips that running processes use take more than {bound}, the bound of their cache; raise data.cache_gb "
            "of the training run, give fewer clips or reduce them with stvsr_jax.data.decode",
            str(folder),
        )


def _turn(folder: Path):
    return locks.in_turn(folder / "folder.lock", "another process that tidies the cache of videos")


def _is_written(folder: Path, entry: str, used: set[str]) -> bool:
    """Whether a process is writing an entry."""
    if entry not in used:
        return False
    try:
        with locks.only_one(folder / f"{entry}.lock", "written"):
            return False
    except BlockingIOError:
        return True


def _find_used(folder: Path) -> set[str]:
    """Returns the names of the entries that running processes use; forgets processes that have ended."""
    used = set()
    for lock in (folder / "users").glob("*.lock"):
        names = lock.with_suffix(".txt")
        try:
            with locks.only_one(lock, "used"):
                names.unlink(missing_ok=True)
                lock.unlink()
        except BlockingIOError:
            used.update(names.read_text().split())
    return used
