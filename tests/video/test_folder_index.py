"""Folders of images are read once; large frames then come from tiles, with the values of the images."""

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.data import sources
from stvsr_jax.data.frame_folder import open_frame_folder
from stvsr_jax.video import folder_index, index, scan, scan_cache, tile_store
from stvsr_jax.video.errors import ClipError


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Frames of 100x150 are large."""
    monkeypatch.setattr(folder_index, "MOST_PIXELS", 100 * 150 - 1)


def write(folder, frames, suffix="png"):
    folder.mkdir(parents=True)
    for n, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{n}.{suffix}")
    return folder


def files_of(cache, *suffixes):
    return sorted(path.name for path in (cache / "videos").iterdir() if path.suffix in suffixes)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_tiles_have_the_values_of_the_images(tmp_path, draw_frames, monkeypatch, suffix):
    folder = write(tmp_path / "clip", draw_frames(6, 100, 150), suffix)
    expected = np.stack([np.asarray(Image.open(folder / f"{n}.{suffix}")) for n in range(6)])
    clip = open_frame_folder(folder, cache_dir=tmp_path / "cache")
    assert clip.media.endswith(".tiles") and (clip.height, clip.width, clip.num_frames) == (100, 150, 6)
    monkeypatch.setattr(folder_index, "read_image", None)
    for opened in (clip, open_frame_folder(folder, cache_dir=tmp_path / "cache")):
        np.testing.assert_array_equal(opened.read(range(6)), expected)
        np.testing.assert_array_equal(
            opened.read([5, 1, 1], (60, 33, 40, 90)), expected[[5, 1, 1], 60:, 33:123]
        )


def test_thumbnails_and_frames_do_not_depend_on_the_threads(tmp_path, draw_frames):
    folder = write(tmp_path / "clip", draw_frames(9, 100, 150))
    made = [
        folder_index.load_index(
            folder, folder_index.list_frames(folder), cache_dir=tmp_path / str(workers), workers=workers
        )
        for workers in (1, 3)
    ]
    (one, thumbnails), (other, same) = made
    np.testing.assert_array_equal(thumbnails, same)
    assert len(thumbnails) == one.num_frames == other.num_frames == 9 and thumbnails.std() > 1
    with open(one.media, "rb") as first, open(other.media, "rb") as second:
        assert first.read() == second.read()


def test_small_frames_are_read_from_their_images(tmp_path, draw_frames):
    frames = draw_frames(3, 100, 149)
    clip = open_frame_folder(write(tmp_path / "clip", frames), cache_dir=tmp_path / "cache")
    assert clip.media == "" and not files_of(tmp_path / "cache", ".tiles")
    np.testing.assert_array_equal(clip.read([2], (1, 2, 30, 40)), frames[2:, 1:31, 2:42])


def test_what_is_read_in_order_is_not_copied(tmp_path, draw_frames):
    frames = draw_frames(3, 100, 150)
    folder = write(tmp_path / "all" / "clip", frames)
    (clip,) = sources.open_path(
        folder.parent, cache_dir=tmp_path / "cache", max_keyframe_gap=index.IN_ORDER_KEYFRAME_GAP
    )
    assert clip.media == "" and not files_of(tmp_path / "cache", ".tiles")
    (clip,) = sources.open_path(
        folder.parent, cache_dir=tmp_path / "cache"
    )  # not what was kept for the other
    assert clip.media.endswith(".tiles")
    np.testing.assert_array_equal(clip.read(range(3)), frames)


def test_a_folder_that_has_changed_is_read_again(tmp_path, draw_frames):
    frames = draw_frames(4, 100, 150)
    folder = write(tmp_path / "clip", frames[:3])
    assert open_frame_folder(folder, cache_dir=tmp_path / "cache").num_frames == 3
    Image.fromarray(frames[3]).save(folder / "3.png")
    clip = open_frame_folder(folder, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(clip.read([3, 0]), frames[[3, 0]])


def test_tiles_that_were_removed_are_made_again(tmp_path, draw_frames):
    frames = draw_frames(3, 100, 150)
    folder = write(tmp_path / "clip", frames)
    first = open_frame_folder(folder, cache_dir=tmp_path / "cache")
    (tmp_path / "cache" / "videos" / first.media).unlink()
    np.testing.assert_array_equal(
        open_frame_folder(folder, cache_dir=tmp_path / "cache").read(range(3)), frames
    )


@pytest.mark.parametrize("damage", ["an image", "the disk", "the bound"])
def test_failure_leaves_nothing_in_the_cache(tmp_path, draw_frames, monkeypatch, damage):
    folder, cache = write(tmp_path / "clip", draw_frames(4, 100, 150)), tmp_path / "cache"
    expected = {
        "an image": (ClipError, "2.png"),
        "the disk": (OSError, "No space"),
        "the bound": (OSError, "bound"),
    }
    options = {}
    if damage == "an image":
        (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:-300])
    elif damage == "the disk":
        real = tile_store.TileWriter
        monkeypatch.setattr(tile_store, "TileWriter", lambda path, *args: real("/dev/full", *args))
    else:
        monkeypatch.setattr(tile_store, "_CHECKED_BYTES", 1000)
        options = {"cache_gb": 1e-7}
    error, message = expected[damage]
    with pytest.raises(error, match=message):
        open_frame_folder(folder, cache_dir=cache, **options)
    assert not files_of(cache, ".json", ".npy", ".tiles")


def test_folders_are_scanned_by_workers_beside_videos(tmp_path, draw_frames, write_video, monkeypatch):
    monkeypatch.setattr(scan, "_SMALL", 0)
    frames = draw_frames(4, 100, 150)
    for name in "ab":
        write(tmp_path / "all" / name, frames)
    write(tmp_path / "all" / "broken", frames)
    (tmp_path / "all" / "broken" / "1.png").write_bytes(b"no image")
    write_video(tmp_path / "all" / "c.mp4", draw_frames(5, 32, 48))
    read_here = []
    real = folder_index.read_image
    monkeypatch.setattr(folder_index, "read_image", lambda path: (read_here.append(path), real(path))[1])
    clips = sources.open_path(tmp_path / "all", cache_dir=tmp_path / "cache", faults=(faults := []))
    assert sorted((clip.name, clip.num_frames) for clip in clips) == [("a", 4), ("b", 4), ("c.mp4", 5)]
    assert len(faults) == 1 and "1.png cannot be read as an image" in faults[0] and not read_here


def test_what_is_not_scanned_is_not_kept(tmp_path, draw_frames):
    folder = write(tmp_path / "all" / "clip", draw_frames(4, 100, 150))
    (clip,) = sources.open_path(folder.parent, cache_dir=tmp_path / "cache", cut_threshold=None)
    assert clip.media == "" and not (tmp_path / "cache").exists()


def test_folders_share_the_bound_of_the_cache(tmp_path, draw_frames):
    frames = draw_frames(4, 100, 150)
    first, second = (write(tmp_path / name, frames) for name in ("first", "second"))
    cache = tmp_path / "cache"
    open_frame_folder(first, cache_dir=cache)
    size = sum(path.stat().st_size for path in (cache / "videos").glob("*.*"))
    scan_cache._users.clear()  # as in a new process
    open_frame_folder(second, cache_dir=cache, cache_gb=1.2 * size / 1e9)
    assert len(files_of(cache, ".tiles")) == 1
