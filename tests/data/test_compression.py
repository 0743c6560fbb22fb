"""Coded frames lose what H.264 loses at a quality, in place, in order, and the same way every time."""

import av
import numpy as np
import pytest

from stvsr_jax.data.compression import H264, PRESETS, code


@pytest.fixture
def grey_frames(draw_frames):
    """Return draw(count, height, width): as `draw_frames`, without colour, which 4:2:0 would lose at any quality."""

    def draw(*shape, **options):
        frames = draw_frames(*shape, **options).mean(axis=-1, keepdims=True)
        return frames.round().astype(np.uint8).repeat(3, axis=-1)

    return draw


def psnr(coded, frames):
    return 10 * np.log10(255**2 / ((coded.astype(np.float64) - frames) ** 2).mean())


def test_psnr_falls_with_crf(grey_frames):
    frames = grey_frames(6, 64, 96)
    found = [psnr(np.stack([*code(frames, H264(crf))]), frames) for crf in (5, 18, 23, 28, 33, 38)]
    assert all(a > b + 1 for a, b in zip(found[:-1], found[1:], strict=True)), found
    assert found[0] > 45 and found[-1] < 37, found


@pytest.mark.parametrize("preset", PRESETS)
def test_loses_what_a_file_of_the_same_settings_loses(tmp_path, grey_frames, write_video, preset):
    frames = grey_frames(9, 64, 96)
    options = {"preset": preset, "crf": "30", "g": "4", "threads": "1", "x264-params": "mbtree=0"}
    with av.open(str(write_video(tmp_path / "clip.mkv", frames, options=options))) as container:
        luma = np.stack([frame.to_ndarray()[:64] for frame in container.decode(video=0)])
    stored = ((luma.astype(np.float64) - 16) * 255 / 219)[..., None]
    coded = np.stack([*code(frames, H264(30, preset, 4))])
    assert coded.shape == frames.shape and coded.dtype == np.uint8
    assert abs(psnr(coded, frames) - psnr(stored, frames)) < 0.6  # as one of crf


@pytest.mark.parametrize("size", [(33, 47), (16, 16), (4, 6), (1, 1)])
def test_any_size_keeps_its_brightness(grey_frames, size):
    frames = grey_frames(3, *size)
    coded = np.stack([*code(frames, H264(1))])
    assert coded.shape == frames.shape
    assert np.abs(coded.astype(int) - frames).max() <= 3


@pytest.mark.parametrize("axis", [0, 1])
def test_colours_stay_where_they_are(axis):
    # A wave of red and green without one of BT.709's brightness: it is in the halved chroma alone.
    wave = 40 * np.sin(np.arange(128) * 2 * np.pi / 32)
    wave = wave[:, None] if axis == 0 else wave[None]
    red, green = 128 + wave, 128 - wave * 0.2126 / 0.7152
    frame = np.broadcast_to(np.stack([red, green, 0 * wave + 128], axis=-1), (128, 128, 3))
    (coded,) = code([frame.round().astype(np.uint8)], H264(1))
    found = np.moveaxis(coded[..., 0].astype(float) - coded[..., 1], axis, -1)[32:96, 32:96]
    angle = np.arange(32, 96) * 2 * np.pi / 32
    shift = -np.arctan2((found * np.cos(angle)).sum(), (found * np.sin(angle)).sum()) * 32 / (2 * np.pi)
    assert abs(shift) < 0.1


def test_same_pixels_every_time_and_frames_in_order(draw_frames):
    frames = draw_frames(12, 48, 64, speed=3.0)
    first, second = (np.stack([*code(iter(frames), H264(26))]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    errors = np.array([[psnr(coded, frame) for frame in frames] for coded in first])
    np.testing.assert_array_equal(errors.argmax(axis=1), np.arange(12))


def test_artefacts_move_with_a_still_picture_not_at_random(draw_frames):
    # Of a still picture a codec repeats its error; coded one by one with other settings the errors differ.
    still = draw_frames(1, 64, 64).repeat(4, axis=0)
    error = np.stack([*code(still, H264(35))]).astype(np.float64) - still
    apart = (
        np.stack([next(code(still[:1], H264(crf))) for crf in (33, 35, 37, 39)]).astype(np.float64) - still
    )
    change = (np.diff(error, axis=0) ** 2).mean() / (error**2).mean()
    assert change < 0.35 < (np.diff(apart, axis=0) ** 2).mean() / (apart**2).mean()


def test_no_frames_are_no_frames():
    assert list(code([], H264(23))) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crf": -1}, "crf=-1 must be from 0 to 51"),
        ({"crf": 52}, "crf=52 must be"),
        ({"crf": float("nan")}, "crf=nan must be"),
        ({"crf": 20, "preset": "placebo"}, "preset='placebo' is not one of ultrafast"),
        ({"crf": 20, "gop": 0}, "gop=0 must be a whole number from 1"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        H264(**settings)
