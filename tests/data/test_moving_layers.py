"""Moving layers: exact geometry against an independent sampler, determinism, crops, occlusion, and bad input."""

import dataclasses
import math
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.data.moving_layers import Layer, Motion, Scene, _import_cv2, open_moving_layers

cv2 = pytest.importorskip("cv2")


@pytest.fixture
def photos(tmp_path):
    """Return a folder of four smooth photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (12, 18, 3)).astype(np.uint8))
        small.resize((180, 120), Image.Resampling.BICUBIC).save(folder / f"{seed}.png")
    return folder


def open_scenes(photos, tmp_path, **options):
    options = {"count": 6, "size": (48, 64), **options}
    return open_moving_layers(photos, cache_dir=tmp_path / "cache", **options)


def still(start, **changes):
    motion = Motion(np.array(start, float), np.zeros(2), 0.1, 0.0, 0.0, 0.0)
    return dataclasses.replace(motion, **changes)


def smooth_picture(height, width):
    """Returns a picture that is linear in x and y, so that every interpolation of it is exact."""
    y, x = np.mgrid[:height, :width]
    return np.stack([2.0 * x, 2.0 * y, x + y], axis=-1)


def test_a_scene_is_a_function_of_seed_and_number(photos, tmp_path):
    first, second = (open_scenes(photos, tmp_path)[3] for _ in range(2))
    frames = first.read([0, 7, 30])
    assert frames.shape == (3, 48, 64, 3) and frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, pickle.loads(pickle.dumps(second)).read([0, 7, 30]))
    assert not np.array_equal(frames, open_scenes(photos, tmp_path)[4].read([0, 7, 30]))
    assert not np.array_equal(frames, open_scenes(photos, tmp_path, seed=1)[3].read([0, 7, 30]))


def test_a_crop_is_that_part_of_the_frame(photos, tmp_path):
    for clip in open_scenes(photos, tmp_path):
        whole, crop = clip.read([2, 20]), clip.read([20, 2], (8, 20, 24, 28))
        difference = np.abs(whole[::-1, 8:32, 20:48].astype(int) - crop)
        # OpenCV places samples in fixed point, from another origin.
        assert difference.max() <= 6 and difference.mean() < 0.2


def test_translation_moves_the_picture_by_the_path():
    picture = smooth_picture(40, 60)
    layer = Layer(
        picture.astype(np.uint8),
        1.0,
        still((30, 20), velocity=np.array([3.0, -1.5]), phase=0.0, frequency=1e-6),
    )
    scene = Scene((layer,), (0.0,), 0.0)
    for n in (0, 1, 2):
        drawn = scene.draw([n], (12, 18, 8, 10))[0].astype(float)
        # What is at p in the frame was at p - n * velocity in the picture; its centre lies at (30, 20) from its corner.
        y, x = np.mgrid[12:20, 18:28].astype(float)
        expected = np.stack([2 * (x - 3 * n), 2 * (y + 1.5 * n), x - 3 * n + y + 1.5 * n], axis=-1)
        np.testing.assert_allclose(drawn, expected, atol=1.01)


def test_rotation_and_zoom_are_about_the_centre():
    picture = smooth_picture(60, 60)
    layer = Layer(picture.astype(np.uint8), 1.0, still((30, 30), turn=90.0, zoom=math.log(2.0)))
    drawn = Scene((layer,), (0.0,), 0.0).draw([1], (26, 26, 8, 8))[0].astype(float)
    y, x = np.mgrid[26:34, 26:34].astype(float)
    # Turned by 90 degrees and doubled: the frame's (x, y) shows the picture's centre + R^-1 (p - centre) / 2.
    from_x, from_y = 29.5 + (y - 29.5) / 2, 29.5 - (x - 29.5) / 2
    expected = np.stack([2 * from_x, 2 * from_y, from_x + from_y], axis=-1)
    np.testing.assert_allclose(drawn, expected, atol=1.01)


def test_a_layer_covers_what_is_behind_it_where_its_mask_is_set():
    behind = Layer(np.full((40, 40, 3), 50, np.uint8), 1.0, still((20, 20)))
    mask = np.zeros((20, 20), np.float32)
    mask[:, 10:] = 1
    front = Layer(np.full((20, 20, 3), 200, np.uint8), 1.0, still((20, 20)), mask, 15.0)
    drawn = Scene((behind, front), (0.0,), 0.0).draw([0], (0, 0, 40, 40))[0]
    assert (drawn[12:28, 22:28] == 200).all() and (drawn[12:28, 12:18] == 50).all()
    assert (drawn[:8] == 50).all() and (drawn[:, 32:] == 50).all()


def test_exposure_blur_is_the_mean_of_its_moments():
    picture = smooth_picture(40, 60).astype(np.uint8)
    layer = Layer(picture, 1.0, still((30, 20), velocity=np.array([6.0, 0.0]), frequency=1e-6))
    blurred = Scene((layer,), (0.0, 0.25, 0.5), 0.0).draw([0], (10, 20, 8, 8))[0].astype(float)
    sharp = [Scene((layer,), (t,), 0.0).draw([0], (10, 20, 8, 8))[0].astype(float) for t in (0.0, 0.25, 0.5)]
    np.testing.assert_allclose(blurred, np.mean(sharp, axis=0), atol=1.01)


def test_background_is_mirrored_beyond_its_borders(photos, tmp_path):
    picture = smooth_picture(40, 60).astype(np.uint8)
    layer = Layer(
        picture, 1.0, still((42, 20))
    )  # 12 pixels to the right of where the frame's own centre would be
    drawn = Scene((layer,), (0.0,), 0.0).draw([0], (10, 0, 8, 40))[0].astype(float)
    # Its first column, at 12, stands again at 11.
    x = np.abs(np.arange(40) - 11.5) - 0.5
    np.testing.assert_allclose(drawn[2, :, 0], 2 * x, atol=1.01)


def test_speed_scales_all_motion(photos, tmp_path):
    def change(clip):
        frames = clip.read([14, 15]).astype(float)
        return np.abs(frames[1] - frames[0]).mean()

    slow = [change(clip) for clip in open_scenes(photos, tmp_path, speed=(0.01, 0.01))]
    fast = [change(clip) for clip in open_scenes(photos, tmp_path, speed=(1.0, 1.0))]
    assert np.mean(slow) < 0.1 * np.mean(fast)


def test_wrong_options_and_folders_are_refused(photos, tmp_path):
    with pytest.raises(ValueError, match=r"speed=\(0, 1\)"):
        open_scenes(photos, tmp_path, speed=(0, 1))
    with pytest.raises(ValueError, match="count=0"):
        open_scenes(photos, tmp_path, count=0)
    with pytest.raises(FileNotFoundError, match="no folder of photographs"):
        open_scenes(tmp_path / "none", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no photograph"):
        open_scenes(tmp_path / "empty", tmp_path)


def test_missing_opencv_is_named_with_the_way_out(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    _import_cv2.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'stvsr-jax\[layers\]'"):
        open_scenes(photos, tmp_path)


def test_opencv_takes_one_thread(photos, tmp_path, monkeypatch):
    _import_cv2.cache_clear()
    cv2.setNumThreads(4)
    open_scenes(photos, tmp_path)[0].read([0])
    assert cv2.getNumThreads() == 1


def test_fine_detail_is_averaged_over_a_pixel_of_the_frame():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, ::2] = 200  # stripes of one pixel, of which a pixel of the frame holds two and a half
    layer = Layer(picture, 0.4, still((12.8, 12.8)))
    drawn = Scene((layer,), (0.0,), 0.0).draw([0], (6, 6, 12, 12))[0].astype(float)
    assert abs(drawn.mean() - 100) < 1.5 and drawn.std() < 20  # 100 without
