"""Locks between processes, in files; a lock ends with its process, however that ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock
from absl import logging

_PATIENCE = 5.0  # seconds of waiting without a word
_told = []  # what this process has said that it waits for


@contextlib.contextmanager
def only_one(file: Path, used_for: str) -> Iterator[None]:
    """Holds the lock of a file, which is created and stays.

    Args:
      file: of the lock; its folder is created.
      used_for: what another process does that holds it, for the message.

    Raises:
      BlockingIOError: another process holds it, or another place in this one.
      OSError: it cannot be created.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{file.parent} cannot be created: {error.strerror}") from error
    lock = filelock.FileLock(file, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise BlockingIOError(
            f"{file.parent} is {used_for} by another process, which holds {file.name}"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def in_turn(file: Path, wait_for: str) -> Iterator[None]:
    """Holds the lock of a file, which is created and stays; waits as long as another process, or thread, holds it.

    Args:
      file: of the lock; its folder is created.
      wait_for: what the other does, for a line that each process prints once, and only after seconds.

    Raises:
      OSError: it cannot be created.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=_PATIENCE)
    except filelock.Timeout:
        if wait_for not in _told:
            _told.append(wait_for)
            logging.warning("waiting for %s, into %s", wait_for, file.parent)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
