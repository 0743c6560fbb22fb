"""Any frame of any video, read at random, is the frame that decoding from the start gives."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from absl import logging

from stvsr_jax import files
from stvsr_jax.data.video_file import open_video
from stvsr_jax.video import index, random_reader, tile_store
from stvsr_jax.video.colour import RgbConverter, read_tags

_B_FRAMES = {"bf": "3", "b-adapt": "0"}
_CASES = {
    "short_gop": ("a.mp4", "libx264", {"g": "8", "keyint_min": "8", **_B_FRAMES}),
    "open_gop": ("a.mp4", "libx264", {"g": "10", "x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}),
    "one_keyframe": ("a.mkv", "libx264", {"g": "300", "sc_threshold": "0", **_B_FRAMES}),
    "no_timestamps": ("a.h264", "libx264", {"g": "300", **_B_FRAMES}),
    "transport_stream": ("a.ts", "libx264", {"g": "12", **_B_FRAMES}),
    "mpeg4_avi": ("a.avi", "mpeg4", {"g": "12"}),
    "wmv": ("a.wmv", "wmv2", {"g": "12"}),
    "vp9": ("a.webm", "libvpx-vp9", {"g": "16", "deadline": "realtime", "cpu-used": "8"}),
}


def _decode_all(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    converter = RgbConverter(read_tags(frames[0]))
    return np.stack([converter.to_rgb(frame) for frame in frames])


@pytest.mark.parametrize("gap", [1, 32], ids=["tiles", "in place where keyframes are close"])
@pytest.mark.parametrize("case", _CASES)
def test_random_reads_equal_sequential_decoding(case, gap, tmp_path, draw_frames, write_video):
    name, codec, options = _CASES[case]
    path = write_video(tmp_path / name, draw_frames(60, 48, 64), codec=codec, options=options)
    expected = _decode_all(path)
    clip = open_video(path, cache_dir=tmp_path / "cache", max_keyframe_gap=gap)
    assert (clip.num_frames, clip.height, clip.width) == (len(expected), 48, 64)
    order = np.random.default_rng(0).permutation(len(expected))
    for n in order:
        np.testing.assert_array_equal(clip.read([int(n)])[0], expected[n], err_msg=f"frame {n}")
    np.testing.assert_array_equal(clip.read([30, 3, 3, 31]), expected[[30, 3, 3, 31]])
    np.testing.assert_array_equal(clip.read([7, 9], (5, 11, 9, 14)), expected[[7, 9], 5:14, 11:25])


def test_joined_files_keep_the_order_of_their_frames(tmp_path, draw_frames, write_video):
    frames, options = draw_frames(40, 48, 64), _CASES["short_gop"][2]
    parts = [write_video(tmp_path / f"{i}.ts", frames[20 * i :][:20], options=options) for i in range(2)]
    joined = tmp_path / "a.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    clip = open_video(joined, cache_dir=tmp_path / "cache")
    assert clip.num_frames == 40
    np.testing.assert_array_equal(clip.read(range(40)), np.concatenate([_decode_all(part) for part in parts]))


def test_empty_packets_are_frames(tmp_path, draw_frames, write_video):
    frames = draw_frames(8, 48, 64)
    path = tmp_path / "b.nut"
    whole = write_video(tmp_path / "a.nut", frames, codec="png", pix_fmt="rgb24")
    with av.open(str(whole)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.size:
                if number in (3, 4):
                    pts, time_base, packet = packet.pts, packet.time_base, av.Packet(b"")
                    packet.pts = packet.dts = pts
                    packet.time_base = time_base
                packet.stream = stream
                container.mux(packet)
    expected = _decode_all(whole)[[0, 1, 2, 2, 2, 5, 6, 7]]
    clip = open_video(path, cache_dir=tmp_path / "cache")
    assert clip.num_frames == 8
    np.testing.assert_array_equal(clip.read(range(8)), expected)


def test_keyframes_decide_whether_a_video_is_read_in_place(tmp_path, draw_frames, write_video):
    frames = draw_frames(60, 48, 64)
    short = write_video(tmp_path / "short.mp4", frames, options=_CASES["short_gop"][2])
    cache = tmp_path / "cache"
    assert open_video(short, cache_dir=cache, max_keyframe_gap=8).index.media == str(short)
    assert not list(cache.rglob("*.tiles"))
    clip = open_video(short, cache_dir=cache)
    assert [clip.index.media] == [str(path) for path in cache.rglob("*.tiles")]
    assert clip.index.keyframes == clip.index.pts == ()
    all_keyframes = write_video(tmp_path / "all.mp4", frames, options={"g": "1"})
    assert open_video(all_keyframes, cache_dir=cache).index.media == str(all_keyframes)


@pytest.mark.parametrize(
    "pixel_format, size", [("yuvj420p", (48, 64)), ("yuv444p", (48, 64)), ("yuv422p", (50, 66))]
)
def test_tiles_have_the_same_values(pixel_format, size, tmp_path, draw_frames, write_video):
    options = _CASES["one_keyframe"][2]
    path = write_video(tmp_path / "a.mp4", draw_frames(40, *size), pix_fmt=pixel_format, options=options)
    clip = open_video(path, cache_dir=tmp_path / "cache")
    assert clip.index.media != str(path)
    expected = _decode_all(path)
    np.testing.assert_array_equal(clip.read(range(40)), expected)
    np.testing.assert_array_equal(clip.read([20], (8, 16, 10, 12)), expected[[20], 8:18, 16:28])


def test_odd_size_is_stored_exactly(tmp_path, draw_frames, write_video):
    path = write_video(tmp_path / "a.mkv", draw_frames(40, 49, 65), pix_fmt="yuv444p", options={"g": "300"})
    clip = open_video(path, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(clip.read(range(40)), _decode_all(path))


def test_inexact_seeking_falls_back_to_tiles(tmp_path, draw_frames, write_video, monkeypatch):
    path = write_video(tmp_path / "a.mp4", draw_frames(40, 48, 64), options=_CASES["short_gop"][2])
    monkeypatch.setattr(index, "_reads_exactly", lambda index, thumbnails: False)
    clip = open_video(path, cache_dir=tmp_path / "cache", max_keyframe_gap=8)
    assert clip.index.media != str(path)
    np.testing.assert_array_equal(clip.read([17]), _decode_all(path)[[17]])


def test_a_video_is_decoded_once(tmp_path, draw_frames, write_video, monkeypatch):
    path = write_video(tmp_path / "a.mp4", draw_frames(40, 48, 64), options=_CASES["one_keyframe"][2])
    first = open_video(path, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(index, "_decode", None)
    again = open_video(path, cache_dir=tmp_path / "cache")
    assert again == first
    np.testing.assert_array_equal(again.read([5]), first.read([5]))


def test_an_edited_video_is_scanned_anew(tmp_path, draw_frames, write_video):
    path = write_video(tmp_path / "a.mp4", draw_frames(40, 48, 64))
    assert open_video(path, cache_dir=tmp_path / "cache").num_frames == 40
    write_video(path, draw_frames(30, 48, 64))
    assert open_video(path, cache_dir=tmp_path / "cache").num_frames == 30


def test_lost_tiles_are_made_again(tmp_path, draw_frames, write_video):
    path = write_video(tmp_path / "a.mp4", draw_frames(40, 48, 64), options=_CASES["one_keyframe"][2])
    cache = tmp_path / "cache"
    expected = open_video(path, cache_dir=cache).read([11])
    (tiles,) = cache.rglob("*.tiles")
    tiles.unlink()
    np.testing.assert_array_equal(open_video(path, cache_dir=cache).read([11]), expected)


def test_failure_leaves_nothing_in_the_cache(tmp_path, draw_frames, write_video, monkeypatch):
    path = write_video(tmp_path / "a.mp4", draw_frames(40, 48, 64), options=_CASES["one_keyframe"][2])

    def fail(self, planes):
        raise RuntimeError("disk full")

    monkeypatch.setattr(tile_store.TileWriter, "add", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        open_video(path, cache_dir=tmp_path / "cache")
    left = [p for p in (tmp_path / "cache" / "videos").iterdir() if p.is_file() and p.suffix != ".lock"]
    assert left == []


def test_finds_the_cut_between_two_scenes(tmp_path, draw_frames, write_video):
    frames = np.concatenate([draw_frames(20, 48, 64, seed=1), draw_frames(15, 48, 64, seed=2) // 2])
    path = write_video(tmp_path / "a.mp4", frames)
    assert open_video(path, cache_dir=tmp_path / "cache").scenes == ((0, 20), (20, 35))
    assert open_video(path, cache_dir=tmp_path / "cache", cut_threshold=None).scenes == ((0, 35),)


@pytest.mark.parametrize("gap", [1, 8], ids=["tiles", "in place"])
def test_many_threads_and_a_pickled_clip_read_the_same(gap, tmp_path, draw_frames, write_video):
    path = write_video(tmp_path / "a.mp4", draw_frames(40, 48, 64), options=_CASES["short_gop"][2])
    clip = open_video(path, cache_dir=tmp_path / "cache", max_keyframe_gap=gap)
    expected = _decode_all(path)
    twin = pickle.loads(pickle.dumps(clip))
    order = np.random.default_rng(1).integers(0, 40, 120).tolist()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: (clip, twin)[n % 2].read([n])[0], order))
    np.testing.assert_array_equal(np.stack(found), expected[order])


def test_bad_files_are_named(tmp_path, draw_frames, write_video):
    cache = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(FileNotFoundError, match="missing.mp4"):
        open_video(tmp_path / "missing.mp4", **cache)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match="empty.mp4 .*zero bytes"):
        open_video(tmp_path / "empty.mp4", **cache)
    (tmp_path / "text.mp4").write_text("this is not a video " * 100)
    with pytest.raises(ValueError, match="text.mp4 cannot be read as a video: Invalid data"):
        open_video(tmp_path / "text.mp4", **cache)
    whole = write_video(tmp_path / "whole.mp4", draw_frames(40, 48, 64), options={"movflags": "faststart"})
    data = whole.read_bytes()
    (tmp_path / "no_index.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="no_index.mp4 cannot be read as a video"):
        open_video(tmp_path / "no_index.mp4", **cache)


def test_cut_short_file_is_refused(tmp_path, draw_frames):
    path = tmp_path / "a.mp4"
    frames = draw_frames(40, 48, 64)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="a.mp4 is cut short"):
        open_video(path, cache_dir=tmp_path / "cache")


def write_with_sound(path, frames, seconds):
    """Write frames at 25 per second, and `seconds` of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "8"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        for n in range(8 * seconds):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            silence.pts, silence.rate = 1000 * n, 8000
            container.mux(sound.encode(silence))
        container.mux(stream.encode(None))
        container.mux(sound.encode(None))
    return path


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: lines.append(message % values))
    return lines


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi"])
def test_sound_longer_than_the_pictures_is_no_damage(name, tmp_path, draw_frames, warnings):
    path = write_with_sound(tmp_path / name, draw_frames(25, 48, 64), 9)
    assert open_video(path, cache_dir=tmp_path / "cache").num_frames == 25
    assert warnings == []


def test_a_file_that_ends_early_is_warned_about(tmp_path, draw_frames, warnings):
    path = write_with_sound(tmp_path / "a.mkv", draw_frames(200, 48, 64), 8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    num_frames = open_video(path, cache_dir=tmp_path / "cache").num_frames
    assert num_frames < 150
    assert any("may be cut short" in line and "of 8.1 seconds" in line for line in warnings)


def test_a_full_disk_is_no_fault_of_the_video(tmp_path, draw_frames, write_video, monkeypatch):
    path = write_video(tmp_path / "a.mp4", draw_frames(40, 48, 64), options=_CASES["one_keyframe"][2])
    real = tile_store.TileWriter
    # Everything written to this device fails as on a full disk.
    monkeypatch.setattr(tile_store, "TileWriter", lambda path, *args: real("/dev/full", *args))
    with pytest.raises(OSError, match="No space left on device"):
        open_video(path, cache_dir=tmp_path / "cache")


def test_a_video_whose_reader_was_closed_is_not_decoded_again_to_know_its_chroma(
    tmp_path, draw_frames, write_video, monkeypatch
):
    path = write_video(tmp_path / "a.mp4", draw_frames(10, 48, 64))
    clip = open_video(path, cache_dir=tmp_path / "cache")
    first = clip.read([4])
    monkeypatch.setattr(random_reader, "_open", None)
    monkeypatch.setattr(random_reader, "_POOL", random_reader._Pool())
    np.testing.assert_array_equal(clip.read([4]), first)


def test_wrong_reads_are_named(tmp_path, draw_frames, write_video):
    clip = open_video(write_video(tmp_path / "a.mp4", draw_frames(10, 48, 64)), cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"a.mp4 .*frames \[10\].* i < 10"):
        clip.read([10])
    with pytest.raises(ValueError, match="a.mp4 .*48 x 64"):
        clip.read([0], (0, 0, 49, 10))


def test_cache_directory_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.default_cache_dir() == tmp_path / "stvsr_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.default_cache_dir().parts[-2:] == (".cache", "stvsr_jax")
