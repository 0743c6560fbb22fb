"""A directory that keeps what was found out about each video or folder, so that it is found out once.

Entries are named after the absolute path, size and modification time of what they describe. Files appear in
it whole or not at all: they are written under another name and renamed, so a crash or two processes at work
on the same video leave nothing half-written behind.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def default_cache_dir() -> Path:
    """Returns $XDG_CACHE_HOME/stvsr_jax, or ~/.cache/stvsr_jax without that variable."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stvsr_jax"


def entry_path(cache_dir: str | os.PathLike | None, kind: str, facts: list) -> Path:
    """Returns the path, without suffix, of the entry for `facts` (JSON-like values that identify it)."""
    digest = hashlib.sha256(json.dumps([kind, *facts]).encode()).hexdigest()[:24]
    return (Path(cache_dir) if cache_dir else default_cache_dir()) / kind / digest


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on success it becomes `path`, on an exception it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.draft{path.suffix}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: dict) -> None:
    """Writes `value` to `path` in one step."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(value))


def read_json(path: Path) -> dict | None:
    """Returns what `write_json` wrote, or None if there is nothing or nothing readable."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_array(path: Path, value: np.ndarray) -> None:
    """Writes `value` to `path`, a .npy file, in one step."""
    with replacing(path) as draft:
        np.save(draft, value)


def read_array(path: Path) -> np.ndarray | None:
    """Returns what `write_array` wrote, or None if there is nothing or nothing readable."""
    try:
        return np.load(path)
    except (FileNotFoundError, ValueError, EOFError):
        return None
