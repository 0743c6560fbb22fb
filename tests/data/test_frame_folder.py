"""A folder of images is a clip in the natural order of its names."""

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.data.frame_folder import open_frame_folder
from stvsr_jax.video import folder_index


def _write(folder, frames, pattern="im{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for n, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / pattern.format(n))
    return folder


def test_reads_frames_in_natural_order(tmp_path, draw_frames):
    frames = draw_frames(12, 20, 30)
    clip = open_frame_folder(_write(tmp_path / "clip", frames), cache_dir=tmp_path / "cache")
    assert (clip.name, clip.num_frames, clip.height, clip.width) == ("clip", 12, 20, 30)
    np.testing.assert_array_equal(clip.read(range(12)), frames)
    np.testing.assert_array_equal(clip.read([11, 2, 2], (3, 5, 7, 9)), frames[[11, 2, 2], 3:10, 5:14])


def test_grey_and_alpha_become_rgb(tmp_path):
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    (tmp_path / "clip").mkdir()
    Image.fromarray(grey).save(tmp_path / "clip" / "0.png")
    Image.fromarray(np.dstack([grey] * 3 + [grey * 0])).save(tmp_path / "clip" / "1.png")
    Image.fromarray(grey.astype(np.uint16) * 257 + 100).save(tmp_path / "clip" / "2.png")
    clip = open_frame_folder(tmp_path / "clip", cache_dir=tmp_path / "cache")
    expected = np.dstack([grey] * 3)
    np.testing.assert_array_equal(clip.read([0, 1, 2]), [expected, expected * 0, expected])


def test_cuts_are_found_and_kept(tmp_path, draw_frames, monkeypatch):
    frames = np.concatenate([draw_frames(12, 36, 64, seed=1), draw_frames(12, 36, 64, seed=2) // 2])
    folder = _write(tmp_path / "clip", frames)
    assert open_frame_folder(folder, cache_dir=tmp_path / "cache").scenes == ((0, 12), (12, 24))
    monkeypatch.setattr(folder_index, "read_image", None)
    assert open_frame_folder(folder, cache_dir=tmp_path / "cache").scenes == ((0, 12), (12, 24))
    assert open_frame_folder(folder, cut_threshold=None).scenes == ((0, 24),)


def test_bad_folders_are_named(tmp_path, draw_frames):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="none holds no images; looked for .*png"):
        open_frame_folder(tmp_path / "none")
    mixed = _write(tmp_path / "mixed", draw_frames(3, 20, 30))
    Image.fromarray(draw_frames(1, 20, 32)[0]).save(mixed / "im4.png")
    with pytest.raises(ValueError, match="im1.png is 30x20, im4.png is 32x20"):
        open_frame_folder(mixed)
    broken = _write(tmp_path / "broken", draw_frames(2, 20, 30))
    (broken / "im3.png").write_bytes(b"")
    with pytest.raises(ValueError, match="im3.png cannot be read as an image"):
        open_frame_folder(broken)
    (tmp_path / "real").mkdir()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "real" / "1.tif")
    with pytest.raises(ValueError, match="1.tif cannot be read as an image: it has real numbers"):
        open_frame_folder(tmp_path / "real")


def test_dead_link_is_a_missing_frame_not_one_frame_less(tmp_path, draw_frames):
    folder = _write(tmp_path / "clip", draw_frames(3, 20, 30))
    (folder / "im2.png").unlink()
    (folder / "im2.png").symlink_to(tmp_path / "annex" / "nowhere")
    (folder / "im4.png").mkdir()
    with pytest.raises(ValueError, match="im2.png cannot be read as an image: .*No such file"):
        open_frame_folder(folder, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("error", [SyntaxError("broken PNG file"), Image.DecompressionBombError("too large")])
def test_whatever_pillow_raises_names_the_image(tmp_path, draw_frames, monkeypatch, error):
    folder = _write(tmp_path / "clip", draw_frames(2, 20, 30))

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ValueError, match="im1.png cannot be read as an image: .*(broken|large)"):
        open_frame_folder(folder, cache_dir=tmp_path / "cache")


def test_half_written_image_is_named(tmp_path, draw_frames):
    folder = _write(tmp_path / "clip", draw_frames(3, 60, 80))
    data = (folder / "im2.png").read_bytes()
    (folder / "im2.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="im2.png cannot be read as an image"):
        open_frame_folder(folder, cache_dir=tmp_path / "cache")
