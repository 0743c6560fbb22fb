"""Videos become arrays of their scenes: reduced by block means, without repeated frames."""

import numpy as np

from stvsr_jax.data.array_file import open_array_file
from stvsr_jax.data.decode import choose_reduction, decode_source, main, reduce_frames, scene_frames


def test_blocks_are_averaged_and_rounded():
    frames = np.random.default_rng(0).integers(0, 256, (2, 7, 10, 3)).astype(np.uint8)
    expected = np.empty((2, 2, 3, 3))
    for y in range(2):
        for x in range(3):
            expected[:, y, x] = frames[:, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean(axis=(1, 2))
    np.testing.assert_array_equal(reduce_frames(frames, 3), np.floor(expected + 0.5).astype(np.uint8))
    assert reduce_frames(frames, 1) is frames


def test_reduction_is_raised_for_long_sides():
    assert choose_reduction(720, 1280, reduce=2, max_side=704) == 2
    assert choose_reduction(1920, 1080, reduce=2, max_side=704) == 3
    assert choose_reduction(288, 512, reduce=1, max_side=704) == 1


def test_repeated_frames_are_left_out(array_clip):
    clip = array_clip("a", 4, 40, 40)
    frames = clip.frames[[0, 0, 1, 2, 2, 2, 3]]
    repeated = type(clip)("b", frames, ((0, 7),))
    np.testing.assert_array_equal(scene_frames(repeated, (0, 7), 1), clip.frames)
    np.testing.assert_array_equal(scene_frames(repeated, (1, 4), 2), reduce_frames(clip.frames[:3], 2))


def test_every_scene_becomes_a_file_that_opens(tmp_path, draw_frames, write_video):
    first, second = draw_frames(12, 64, 80, seed=1), 255 - draw_frames(10, 64, 80, seed=2)
    (tmp_path / "clips").mkdir()
    lossless = {"codec": "libx264rgb", "pix_fmt": "rgb24", "options": {"qp": "0"}}
    write_video(tmp_path / "clips" / "two.mp4", np.concatenate([first, second]), **lossless)
    write_video(tmp_path / "clips" / "small.mp4", first[:, :32, :32], **lossless)
    options = {"reduce": 2, "max_side": 1000, "min_frames": 9, "min_side": 32, "workers": 1}
    source = str(tmp_path / "clips"), tmp_path / "out"
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    written, faults = decode_source(*source, cache_dir=str(tmp_path / "cache"), **options)
    assert len(faults) == 1 and "broken.mp4 cannot be read as a video" in faults[0]
    assert [path.name for path in written] == ["two.mp4.000.npy", "two.mp4.001.npy"]
    clips = [open_array_file(path) for path in written]
    np.testing.assert_array_equal(clips[0].read(range(12)), reduce_frames(first, 2))
    np.testing.assert_array_equal(clips[1].read(range(10)), reduce_frames(second, 2))
    # A second start finds them.
    written[0].write_bytes(b"kept")
    assert decode_source(*source, cache_dir=str(tmp_path / "cache"), **options)[0] == written
    assert written[0].read_bytes() == b"kept"


def test_wrong_input_ends_with_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: no video or folder at")
    assert main([str(tmp_path), str(tmp_path / "out"), "--reduce", "0"]) == 2
    assert "--reduce 0 must be at least 1" in capsys.readouterr().err


def test_nothing_to_write_is_an_error(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "torn.mp4").write_text("no video")
    assert main([str(tmp_path / "clips"), str(tmp_path / "out"), "--workers", "1"]) == 2
    left_out, error = capsys.readouterr().err.splitlines()
    assert "torn.mp4 cannot be read as a video" in left_out and error.startswith("error: no scene")
