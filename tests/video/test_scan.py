"""Videos are scanned once: several at once, by one of the processes that want them."""

import os
import subprocess
import sys
import threading

import pytest

from stvsr_jax.data import sources
from stvsr_jax.video import index, scan, scan_cache
from stvsr_jax.video.scan import scan_all
from tests.limits import HANG


@pytest.fixture
def videos(tmp_path, draw_frames, write_video):
    """Return four videos of 8 frames, one of them with a name that is not UTF-8, and one that cannot be read."""
    (tmp_path / "videos").mkdir()
    names = ["a.mp4", "b 2.mkv", os.fsdecode(b"caf\xe9.mp4"), "d.mp4"]
    paths = [write_video(tmp_path / "plain.mp4", draw_frames(8, 32, 48))]
    paths = [tmp_path / "videos" / name for name in names]
    for path in paths:
        path.write_bytes((tmp_path / "plain.mp4").read_bytes())
    (tmp_path / "videos" / "wrong.mp4").write_bytes(b"no video" * 100)
    return [*paths, tmp_path / "videos" / "wrong.mp4"]


@pytest.fixture
def scanned(monkeypatch):
    """Return the list of the videos that this process scans."""
    seen, scan = [], index._scan
    monkeypatch.setattr(index, "_scan", lambda path, *rest: (seen.append(path.name), scan(path, *rest))[1])
    return seen


def is_known(path, cache, gap):
    return index.entry_of(path, cache, gap).with_suffix(".json").is_file()


@pytest.mark.parametrize("small", [0, 10**9])
def test_all_videos_are_scanned_once(videos, scanned, tmp_path, monkeypatch, small):
    monkeypatch.setattr(scan, "_SMALL", small)
    scan_all(videos, cache_dir=tmp_path / "cache", num_workers=2)
    assert scanned == []
    for _ in range(2):
        for path in videos[:4]:
            assert index.load_index(path, cache_dir=tmp_path / "cache")[0].num_frames == 8
        assert scanned == ([path.name for path in videos[:4]] if small else [])  # else in the cache
    with pytest.raises(ValueError, match="wrong.mp4 cannot be read as a video"):
        index.load_index(videos[4], cache_dir=tmp_path / "cache")


def test_sources_are_scanned_by_workers(videos, scanned, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_SMALL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    clips = sources.open_path(tmp_path / "videos", cache_dir=tmp_path / "cache", faults=(faults := []))
    assert [clip.num_frames for clip in clips] == [8] * 4
    assert len(faults) == 1 and "wrong.mp4" in faults[0] and scanned == ["wrong.mp4"]


def test_a_process_that_wants_the_same_videos_waits_and_finds_everything(
    videos, scanned, tmp_path, monkeypatch
):
    monkeypatch.setattr(scan, "_SMALL", 0)
    cache, options = tmp_path / "cache", {"cache_dir": tmp_path / "cache", "num_workers": 2}
    with scan._turn(videos[:4], cache):
        waiting = threading.Thread(target=scan_all, args=(videos[:4],), kwargs=options)
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        scan_all(videos[2:4], **options)  # others do not wait
        assert [is_known(path, cache, index.DEFAULT_MAX_KEYFRAME_GAP) for path in videos[:4]] == [
            False,
            False,
            True,
            True,
        ]
        for path in videos[:2]:
            index.load_index(path, cache_dir=cache)
        del scanned[:]
        monkeypatch.setattr(scan, "_share", None)
    waiting.join(timeout=HANG)
    assert not waiting.is_alive() and not scanned


def test_each_video_is_locked_while_it_is_scanned(videos, scanned, tmp_path, monkeypatch):
    """Two that want one video scan it once; another video is scanned meanwhile."""
    real, may_end, found = index._scan, threading.Event(), []

    def wait(path, *rest):
        if path == videos[0]:
            may_end.wait(HANG)
        return real(path, *rest)

    monkeypatch.setattr(index, "_scan", wait)

    def load():
        found.append(index.load_index(videos[0], cache_dir=tmp_path)[0])

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert index.load_index(videos[1], cache_dir=tmp_path)[0].num_frames == 8
    assert found == []
    may_end.set()
    for thread in threads:
        thread.join(HANG)
    assert len(found) == 2 and found[0] == found[1]
    assert scanned == [videos[1].name, videos[0].name]


def test_a_bound_that_was_lowered_holds_from_the_next_run_on(videos, tmp_path):
    for path in videos[:4]:
        index.load_index(path, cache_dir=tmp_path / "cache")
    scan_cache._users.clear()  # as in a new process
    scan_all(videos[:1], cache_dir=tmp_path / "cache", cache_gb=1e-8)
    assert [is_known(path, tmp_path / "cache", index.DEFAULT_MAX_KEYFRAME_GAP) for path in videos[:4]] == [
        True,
        False,
        False,
        False,
    ]


def test_a_set_that_does_not_fit_is_told_by_the_process_that_wants_it(videos, scanned, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_SMALL", 0)
    options = {"cache_dir": tmp_path / "cache", "cache_gb": 1e-8}
    scan_all(videos[:4], num_workers=2, **options)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.tiles"))
    with pytest.raises(OSError, match="the bound of their cache"):
        sources.open_path(tmp_path / "videos", **options)


def test_workers_end_with_the_process_that_started_them(videos, tmp_path):
    command = [sys.executable, "-m", "stvsr_jax.video.scan", str(tmp_path / "cache"), "0.0", "32"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    worker.stdin.write(os.fsencode(videos[2]).hex().encode() + b"\n")
    worker.stdin.flush()
    assert worker.stdout.readline() == b"done\n"
    worker.stdin.close()  # as by the end of the other process
    assert worker.wait(timeout=HANG) == 0
    worker.stdout.close()
    assert is_known(videos[2], tmp_path / "cache", 32)
