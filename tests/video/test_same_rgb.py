"""Training, the preparation of data sets and inference read the same RGB from the same file."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.data.builders import source_clip
from stvsr_jax.data.video_file import open_video
from stvsr_jax.video import sequential_reader


def draw(count, size, channels=3):
    """Coloured noise, smooth enough that chroma at half the size is of interest, uint8 [count, H, W, channels]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, size[0] // 4 + 1, size[1] // 4 + 1, channels), np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)[:, : size[0], : size[1]]


def write(
    path,
    *,
    size=(64, 96),
    codec="libx264",
    pixel_format="yuv420p",
    tags=None,
    rotation=0,
    has_cover=False,
    flags="",
    channels=3,
):
    with av.open(str(path), "w") as container:
        cover = None
        if has_cover:
            cover = container.add_stream("png", rate=1)
            cover.height, cover.width, cover.pix_fmt = 300, 400, "rgb24"
            cover.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream(
            codec, rate=25, options={"g": "4"} | ({"flags": flags} if flags else {})
        )
        (stream.height, stream.width), stream.pix_fmt = size, pixel_format
        if tags:
            stream.codec_context.colorspace, stream.codec_context.color_range = tags
        if rotation:
            stream.set_display_rotation(rotation)
        if cover:
            picture = av.VideoFrame.from_ndarray(np.full((300, 400, 3), 77, np.uint8), format="rgb24")
            container.mux(cover.encode(picture) + cover.encode(None))
        for i, image in enumerate(draw(6, size, channels)):
            frame = av.VideoFrame.from_ndarray(image, format="rgba" if channels == 4 else "rgb24")
            frame = frame.reformat(format=pixel_format)
            if tags:
                frame.colorspace, frame.color_range = tags
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


CASES = {
    "untagged.mp4": {},
    "untagged_large.mkv": {"size": (96, 1280)},
    "bt709.mp4": {"tags": (1, 1)},
    "bt601_full.mp4": {"tags": (6, 2)},
    "bt2020.mkv": {"tags": (9, 1)},
    "jpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj422p"},
    "turned_left.mp4": {"rotation": 90},
    "turned_right.mp4": {"rotation": -90},
    "upside_down.mp4": {"rotation": 180, "tags": (1, 1)},
    "cover.mp4": {"has_cover": True},
    "rgb.mkv": {"codec": "ffv1", "pixel_format": "bgr0"},
    "transparent.mov": {"codec": "qtrle", "pixel_format": "argb", "channels": 4},
    "transparent.webm": {"codec": "libvpx-vp9", "pixel_format": "yuva420p", "channels": 4},
    "interlaced.mp4": {"flags": "+ildct+ilme"},
    "interlaced_turned.mp4": {"flags": "+ildct+ilme", "tags": (1, 2), "rotation": 90},
    "odd.mkv": {"size": (63, 95), "codec": "ffv1", "pixel_format": "yuv420p"},
}


@pytest.mark.parametrize("max_keyframe_gap", [32, 1], ids=["in place", "copied"])
@pytest.mark.parametrize("name", CASES)
def test_readers_agree(tmp_path, name, max_keyframe_gap):
    path = write(tmp_path / name, **CASES[name])
    info = sequential_reader.probe(path)
    expected = np.stack([frame.image for frame in sequential_reader.read_frames(info)])
    assert len(expected) == 6 and expected.std() > 20
    clip = open_video(path, cache_dir=tmp_path / "cache", max_keyframe_gap=max_keyframe_gap)
    assert (clip.height, clip.width) == (info.height, info.width) == expected.shape[1:3]
    np.testing.assert_array_equal(clip.read(range(6)), expected)
    for crop in ((0, 0, 20, 24), (clip.height - 21, clip.width - 17, 21, 17), (9, 5, 30, 40)):
        top, left, height, width = crop
        np.testing.assert_array_equal(
            clip.read([4, 1], crop), expected[[4, 1], top : top + height, left : left + width]
        )
    if max_keyframe_gap > 1:
        prepared = source_clip.open_video(path, "a")
        np.testing.assert_array_equal(np.stack(list(prepared.frames())), expected)


def test_ten_bits_are_rounded_to_the_same(tmp_path):
    path = write(tmp_path / "a.mkv", codec="ffv1", pixel_format="yuv420p10le")
    deep = np.stack([frame.image for frame in sequential_reader.read_frames(sequential_reader.probe(path))])
    plain = open_video(path, cache_dir=tmp_path / "cache").read(range(6))
    assert deep.dtype == np.uint16 and plain.dtype == np.uint8
    np.testing.assert_array_equal(plain, np.floor(deep / 257 + 0.5))


def test_unknown_colour_is_refused_by_both(tmp_path):
    path = write(tmp_path / "a.mkv", codec="ffv1", pixel_format="yuv444p", tags=(8, 1))
    with pytest.raises(NotImplementedError, match="colour matrix 8"):
        sequential_reader.probe(path)
    with pytest.raises(ValueError, match="a.mkv.*colour matrix 8"):
        open_video(path, cache_dir=tmp_path / "cache")
