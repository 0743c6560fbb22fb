"""Whether an error while a checkpoint is read shows that its files are damaged.

Only then may a run go on without it. Orbax and TensorStore tell most of it in their messages, which begin with the names
of absl's status codes.
"""

import json
import re
from collections.abc import Iterator

from etils import epath

# Of the machine and the network, not of the files. TensorStore also gives the system's error number, of which 2 is a
# file that is missing.
_ELSEWHERE = re.compile(
    "RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|os_error_code=\\?'(?!2\\?')|start new thread|out of memory|timed out",
    re.IGNORECASE,
)
_IN_THE_FILES = re.compile("DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|Error decoding|Error parsing")
_ITEMS = ("params", "ema", "progress")  # that hold arrays
_FILES = ("_METADATA", "manifest.ocdbt")  # of each of these


def is_shown_by(error: BaseException, folder: epath.Path) -> bool:
    """Returns whether an error shows that files of the checkpoint in a folder are damaged or missing.

    False where it may have another cause, such as too little memory or a file server that does not answer.
    """
    errors = list(_chain(error))
    if any(_is_from_elsewhere(e) for e in errors):
        return False
    try:
        names = {child.name for child in folder.iterdir()}
        missing = [f for item in _ITEMS if item in names for f in _FILES if not (folder / item / f).exists()]
    except OSError:  # the folder itself cannot be read
        return False
    return bool(missing) or any(_is_in_the_files(e) for e in errors)


def _chain(error) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_from_elsewhere(error):
    is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError))
    kinds = (MemoryError, OSError)
    return (isinstance(error, kinds) and not is_missing) or bool(_ELSEWHERE.search(str(error)))


def _is_in_the_files(error):
    kinds = (
        json.JSONDecodeError,
        UnicodeDecodeError,
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
    )
    return isinstance(error, kinds) or bool(_IN_THE_FILES.search(str(error)))
