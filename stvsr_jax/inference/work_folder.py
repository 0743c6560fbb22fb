"""What waits of an unfinished output, `OUTPUT.unfinished`, and of an unfinished batch that overwrites.

`progress.json` is written anew, in one step, whenever a segment is finished; what it does not speak of does not
count. It says whether everything is computed ("is_complete": from then on parts of the output may be in place) and
whether the output is in place ("is_finished": what is left of the folder is of no use). A lock keeps a second process away and is gone with the process that held it.
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
from typing import Any

from stvsr_jax import files, locks

_PROGRESS = "progress.json"
_LOCK = "lock"


def path_of(output: pathlib.Path) -> pathlib.Path:
    """Returns where an output waits until it is finished."""
    return files.fit_name(output, ".unfinished")


def is_being_finished(output: pathlib.Path) -> bool:
    """Whether all is computed but not all may be in place: what there is of the output is not the whole."""
    try:
        progress = json.loads((path_of(output) / _PROGRESS).read_text())["progress"]
        return bool(progress["is_complete"] and not progress.get("is_finished"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def saved_settings(output: pathlib.Path) -> dict[str, Any]:
    """Returns what the command that an unfinished output is of asked for; nothing if there is none."""
    try:
        return dict(json.loads((path_of(output) / _PROGRESS).read_text())["request"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class WorkFolder:
    """An unfinished output.

    Args:
      output: the final name.
      request: what is asked for, as JSON data; work on another request is not gone on with.
      overwrite: whether to throw that away instead of refusing.

    Attributes:
      path: of the folder.
      progress: what `save` saved last, or None.

    Raises:
      ValueError: another process works on it, it belongs to another request, or is no work folder.
    """

    def __init__(self, output: pathlib.Path, request: dict[str, Any], *, overwrite: bool):
        self.path = path_of(output)
        self._request = request
        self._check_is_ours()
        self.path.mkdir(exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locks.only_one(self.path / _LOCK, "worked on"))
            except BlockingIOError:
                raise ValueError(f"another process works on {output}") from None
            self.progress = self._load(overwrite)
            self._lock = held.pop_all()

    def _check_is_ours(self):
        is_ours = (self.path / _LOCK).exists() or (self.path / _PROGRESS).exists()
        if self.path.exists() and not is_ours and any(self.path.iterdir()):
            raise ValueError(f"{self.path} is in the way and not of an unfinished output; remove it")

    def _load(self, overwrite):
        file = self.path / _PROGRESS
        if not file.exists():
            return None
        try:
            saved = json.loads(file.read_text())
            differing = [key for key, value in self._request.items() if saved["request"].get(key) != value]
            is_finished = saved["progress"].get("is_finished")
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
            raise ValueError(f"{file} is damaged; remove {self.path} to start again") from None
        if not differing and not is_finished:
            return saved["progress"]
        if not overwrite and not is_finished:
            raise ValueError(
                f"{self.path} holds unfinished work of a command that differs in {', '.join(differing)}; give "
                "that command again to go on, or --overwrite to start anew"
            )
        self._remove_all_but(_LOCK)
        return None

    def save(self, progress: dict[str, Any]) -> None:
        """Replaces the progress in one step."""
        value = {"request": self._request, "progress": progress}
        files.write_json(self.path / _PROGRESS, value, is_synced=True)
        self.progress = progress

    def close(self) -> None:
        """Gives the lock back; a folder without progress is removed."""
        if self.progress is None:
            self.remove()
        self._lock.close()

    def remove(self) -> None:
        """Removes the folder; stopped halfway, what is left is still known for what it is."""
        with contextlib.suppress(OSError):  # what is not wanted any more must not fail what is done
            self._remove_all_but(_LOCK, _PROGRESS)
            for name in (_LOCK, _PROGRESS):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def _remove_all_but(self, *names):
        for child in self.path.iterdir():
            if child.name not in names:
                shutil.rmtree(child) if child.is_dir() else child.unlink()


class Replaced:
    """Which files of a folder a batch with --overwrite has replaced, kept in the folder until all are.

    Without it the same command, killed and given again, would take its own outputs for old ones.

    Args:
      folder: of the outputs.
      shard: (i, n) of the batch, each with a record of its own.
    """

    def __init__(self, folder: pathlib.Path, shard: tuple[int, int]):
        self._path = folder / ".replaced-{}-of-{}.json".format(*shard)
        try:
            self._digests = dict(json.loads(self._path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            self._digests = {}

    def holds(self, output: pathlib.Path, request: dict[str, Any]) -> bool:
        """Returns whether this very output was made."""
        return output.exists() and self._digests.get(output.name) == _digest(request)

    def add(self, output: pathlib.Path, request: dict[str, Any]) -> None:
        """Remembers an output that was made."""
        self._digests[output.name] = _digest(request)
        files.write_json(self._path, self._digests, is_synced=True)

    def remove(self) -> None:
        """Forgets all of them: the batch is done."""
        self._path.unlink(missing_ok=True)


def _digest(request):
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
