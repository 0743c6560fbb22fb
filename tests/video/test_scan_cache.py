"""The cache of scanned videos keeps its bound, and nobody loses what they use: not to the bound, not to other processes."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from stvsr_jax.data.video_file import open_video
from stvsr_jax.locks import only_one
from stvsr_jax.video import index, scan_cache
from tests.limits import HANG

KB = 1e-6  # in GB


def name_of(number, version=scan_cache.VERSION):
    return f"{version}-{number:024x}"


def add_entry(folder, number, kilobytes, used):
    """Writes an entry as large as said, last used at a time, and returns its path without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = folder / name_of(number)
    for suffix, size in ((".json", 10), (".npy", 90), (".tiles", 1000 * kilobytes - 100), (".lock", 0)):
        entry.with_suffix(suffix).write_bytes(bytes(size))
        os.utime(entry.with_suffix(suffix), (used, used))
    return entry


def numbers_in(folder):
    names = {path.name.split(".")[0] for path in folder.glob("*-*")}
    return {int(name.split("-")[1], 16) for name in names}


@contextlib.contextmanager
def another_process(code, *arguments):
    """Runs Python code that prints a line when it is ready; kills it at the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


USE = """
import sys, time, pathlib
from stvsr_jax.video import scan_cache
scan_cache.use(map(pathlib.Path, sys.argv[1:]))
print("ready", flush=True)
time.sleep(600)
"""


def test_least_recently_used_entries_leave_first(tmp_path):
    entries = [add_entry(tmp_path, number, 100, used=1000 + number) for number in range(5)]
    assert scan_cache.tidy(tmp_path, 500 * KB) == 0
    assert numbers_in(tmp_path) == {0, 1, 2, 3, 4}
    with another_process(USE, entries[0]):
        pass  # it has ended: 0 is only the one that was used last
    assert scan_cache.tidy(tmp_path, 350 * KB) == 50_000
    assert numbers_in(tmp_path) == {0, 3, 4}
    assert not list((tmp_path / "users").iterdir())


def test_what_running_processes_use_stays_however_old(tmp_path):
    entries = [add_entry(tmp_path, number, 100, used=1000 + number) for number in range(4)]
    scan_cache.use(entries[1:2])
    with another_process(USE, entries[0], tmp_path / name_of(77)) as process:
        assert scan_cache.tidy(tmp_path, 50 * KB) == -150_000
        assert numbers_in(tmp_path) == {0, 1}
        with pytest.raises(
            OSError, match=r"take more than 5e-05 GB, the bound of their cache.*data.cache_gb"
        ) as error:
            scan_cache.check_room(tmp_path, 50 * KB)
        assert error.value.filename == str(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert scan_cache.tidy(tmp_path, 50 * KB) == -50_000
        assert numbers_in(tmp_path) == {1}


def test_the_bound_is_by_default_a_share_of_the_free_disk(tmp_path, monkeypatch):
    for number in range(5):
        add_entry(tmp_path, number, 100, used=1000 + number)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100_000))
    assert scan_cache.tidy(tmp_path) == 40_000  # 0.9 * (100 + 500) - 500 kB
    assert numbers_in(tmp_path) == {0, 1, 2, 3, 4}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0))
    assert scan_cache.tidy(tmp_path) == 50_000  # 0.9 * 500 - 400 kB
    assert numbers_in(tmp_path) == {1, 2, 3, 4}


def test_what_nothing_reads_any_more_is_removed_and_foreign_files_stay(tmp_path):
    entry = add_entry(tmp_path, 1, 100, used=1000)
    newer = tmp_path / f"{name_of(2, scan_cache.VERSION + 1)}.json"
    draft = f"{'0' * 32}.draft.tiles"
    old = [f"{'a' * 24}{suffix}" for suffix in (".avi", ".json", ".npy", ".lock", f".{draft}")]
    old += [f"{name_of(1, scan_cache.VERSION - 1)}{suffix}" for suffix in (".tiles", ".json")]
    begun = [f"{name_of(3)}.{draft}", f"{entry.name}.{draft}", f"{name_of(4)}.npy", f"{name_of(5)}.lock"]
    foreign = ["holiday.avi", "a.json", f"{'a' * 24}.mp4", f"{'a' * 25}.avi"]
    for name in [newer.name, *old, *begun, *foreign]:
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / f"{'b' * 24}.avi.d").mkdir()
    scan_cache.tidy(tmp_path)
    left = {path.name for path in tmp_path.iterdir()} - {"folder.lock", "users"}
    kept = {f"{entry.name}{suffix}" for suffix in (".json", ".npy", ".tiles", ".lock")}
    assert left == {*kept, newer.name, *foreign, f"{'b' * 24}.avi.d"}


WRITE = """
import sys, time, pathlib
from stvsr_jax import files, locks
from stvsr_jax.video import scan_cache
entry = pathlib.Path(sys.argv[1])
scan_cache.use([entry])
with locks.in_turn(entry.with_suffix(".lock"), "x"), files.replacing(entry.with_suffix(".tiles")) as draft:
    draft.write_bytes(bytes(50_000))
    print("ready", flush=True)
    time.sleep(600)
"""


def test_drafts_stay_as_long_as_their_writer_runs_and_count(tmp_path):
    entry = tmp_path / name_of(1)
    with another_process(WRITE, entry) as process:
        scan_cache.use([entry])  # as one who waits for it
        assert scan_cache.tidy(tmp_path, 60 * KB) == 10_000
        assert len(list(tmp_path.glob("*.draft.tiles"))) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert scan_cache.tidy(tmp_path, 60 * KB) == 60_000
        assert not list(tmp_path.glob("*.draft.tiles"))


@pytest.mark.parametrize("reason", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_cache_that_cannot_be_written_is_read(tmp_path, draw_frames, write_video, monkeypatch, reason):
    path = write_video(tmp_path / "a.mp4", draw_frames(10, 48, 64))
    first = open_video(path, cache_dir=tmp_path / "cache").read([4])

    def refuse(*_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(scan_cache, "_users", {})
    monkeypatch.setattr(scan_cache, "_turn", refuse)
    monkeypatch.setattr(index, "_decode", None)
    np.testing.assert_array_equal(open_video(path, cache_dir=tmp_path / "cache").read([4]), first)


def test_a_video_that_does_not_fit_is_told_and_leaves_nothing(
    tmp_path, draw_frames, write_video, monkeypatch
):
    monkeypatch.setattr(index.tile_store, "_CHECKED_BYTES", 20_000)
    small, large = (write_video(tmp_path / f"{count}.mp4", draw_frames(count, 96, 128)) for count in (4, 60))
    cache, folder = tmp_path / "cache", tmp_path / "cache" / "videos"
    clip = open_video(small, cache_dir=cache)
    before = {path.name for path in folder.rglob("*.*") if path.suffix in (".json", ".npy", ".tiles")}
    bound = (sum(path.stat().st_size for path in folder.iterdir()) + 60_000) / 1e9
    written = []
    real = index.tile_store.TileWriter.add
    monkeypatch.setattr(index.tile_store.TileWriter, "add", lambda *args: (written.append(1), real(*args)))
    with pytest.raises(OSError, match="the bound of their cache"):
        open_video(large, cache_dir=cache, cache_gb=bound)
    assert 2 < len(written) < 59  # long before its end
    assert {path.name for path in folder.rglob("*.*") if path.suffix in (".json", ".npy", ".tiles")} == before
    assert clip.read([3]).shape == (1, 96, 128, 3)


RUNS = """
import os, random, sys, traceback
import numpy as np
from stvsr_jax.data.video_file import open_video
cache, bound, folder = sys.argv[1:]
expected = dict(np.load(f"{folder}/expected.npz"))
names = list(expected)
def run(seed):
    name = random.Random(seed).choice(names)
    clip = open_video(f"{folder}/{name}", cache_dir=cache, cache_gb=float(bound))
    for n in random.Random(seed).sample(range(8), 4):
        assert (clip.read([n])[0] == expected[name][n]).all()
running = 0
for seed in range(60):
    if running == 4:
        assert os.wait()[1] == 0
        running -= 1
    if (child := os.fork()) == 0:
        status = 1
        try:
            run(seed)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    running += 1
while running:
    assert os.wait()[1] == 0
    running -= 1
print("ready", flush=True)
"""


def test_many_processes_share_a_cache_that_is_too_small(tmp_path, draw_frames, write_video):
    """Four at a time, 60 in all, of 12 videos, in room for 6: every frame is right, and the bound holds."""
    expected = {}
    (tmp_path / "videos").mkdir()
    for seed in range(12):
        path = write_video(tmp_path / "videos" / f"{seed}.mp4", draw_frames(8, 64, 64, seed=seed))
        expected[path.name] = open_video(path, cache_dir=tmp_path / "whole").read(range(8))
    np.savez(tmp_path / "videos" / "expected.npz", **expected)
    sizes = [path.stat().st_size for path in (tmp_path / "whole" / "videos").glob("*-*")]
    bound = sum(sizes) / 2 / 1e9
    folder = tmp_path / "cache" / "videos"
    with another_process(RUNS, tmp_path / "cache", bound, tmp_path / "videos") as process:
        assert process.wait(HANG) == 0
    assert not list(folder.glob("*.draft.*"))
    with only_one(folder / "folder.lock", "held"):
        pass
    # The last ones may have added their .json and thumbnails since the last look.
    assert sum(path.stat().st_size for path in folder.glob("*-*")) < 1.2 * 1e9 * bound
    assert 3 <= len(numbers_in(folder)) <= 8
    assert scan_cache.tidy(folder, bound) >= 0
