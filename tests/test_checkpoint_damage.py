"""Errors that show damaged checkpoints are told from those of the machine around them."""

import json

import pytest
from etils import epath

from stvsr_jax.checkpoint_damage import is_shown_by

SETTINGS = """[tensorstore_spec='{"file_io_concurrency":{"limit":128},"file_io_retries":{}}']"""


@pytest.fixture
def folder(tmp_path):
    for item in ("params", "progress"):
        (tmp_path / item).mkdir()
        for name in ("_METADATA", "manifest.ocdbt"):
            (tmp_path / item / name).write_text("{}")
    (tmp_path / "model").mkdir()
    return epath.Path(tmp_path)


def fail_in_json():
    json.loads('{"a": ')


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"DATA_LOSS: Error opening: CRC-32C checksum verification failed {SETTINGS}"),
        ValueError(
            f"OUT_OF_RANGE: Requested byte range [0, 402) is not valid for value of size 0 {SETTINGS}"
        ),
        ValueError(f"NOT_FOUND: Error reading local file d/2392 {SETTINGS}"),
        ValueError(f"Error decoding manifest: ZSTD_decompressStream() failed: Unsupported frame {SETTINGS}"),
        FileNotFoundError(2, "No such file or directory"),
        UnicodeDecodeError("utf-8", b"\x86", 0, 1, "invalid start byte"),
    ],
)
def test_damage_is_seen_through_other_errors(folder, error):
    assert is_shown_by(error, folder)
    outer = RuntimeError("something else")
    outer.__cause__ = error
    assert is_shown_by(outer, folder)


def test_json_that_is_cut_off_is_damage(folder):
    with pytest.raises(json.JSONDecodeError) as caught:
        fail_in_json()
    assert is_shown_by(caught.value, folder)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        TimeoutError("timed out"),
        OSError(5, "Input/output error"),
        PermissionError(13, "Permission denied"),
        OSError(116, "Stale file handle"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes"),
        ValueError("UNAVAILABLE: Error reading gs://a/b"),
        ValueError("DEADLINE_EXCEEDED: 60 s"),
        ValueError("NOT_FOUND: while reading [os_error_code='5']"),
        ValueError("something that nobody knows"),
        KeyError("opt_state"),
        Exception(),
    ],
)
def test_other_errors_show_nothing(folder, error):
    assert not is_shown_by(error, folder)
    outer = ValueError("DATA_LOSS: the read ended early")  # a symptom of the one inside
    outer.__cause__ = error
    known = not isinstance(error, KeyError) and "nobody" not in str(error) and type(error) is not Exception
    assert is_shown_by(outer, folder) == (not known)


@pytest.mark.parametrize("name", ["params/_METADATA", "progress/manifest.ocdbt"])
def test_a_missing_file_shows_damage_whatever_the_error_says(folder, name):
    (folder / name).unlink()
    assert is_shown_by(ValueError("pytree structure error"), folder)
    assert not is_shown_by(MemoryError(), folder)


def test_a_folder_that_is_gone_shows_nothing(tmp_path):
    assert not is_shown_by(FileNotFoundError(2, "No such file"), epath.Path(tmp_path / "away"))
