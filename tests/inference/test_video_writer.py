"""Files written and read back."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from stvsr_jax.inference import video_reader, video_writer
from stvsr_jax.inference.colour import ColourTags
from stvsr_jax.inference.video_writer import PictureWriter, VideoFormat, VideoWriter

RATE = Fraction(60000, 1001)


def images(count=6, size=(64, 96)):
    rng = np.random.default_rng(0)
    patches = rng.integers(16, 235, (count, size[0] // 16 + 1, size[1] // 16 + 1, 3), dtype=np.uint8)
    return patches.repeat(16, 1).repeat(16, 2)[:, : size[0], : size[1]]


def write(path, pictures, **kwargs):
    height, width = pictures[0].shape[:2]
    video = VideoFormat(height, width, rate=RATE, time_base=1 / RATE, **kwargs)
    with VideoWriter(path, video) as writer:
        for i, picture in enumerate(pictures):
            writer.write(picture, i / RATE, 1 / RATE)
    return writer


@pytest.mark.parametrize(
    ("codec", "suffix", "tolerance"),
    [
        ("h264", "mp4", 3),
        ("hevc", "mp4", 3),
        ("av1", "mkv", 4),
        ("ffv1", "mkv", 0),
        ("prores", "mov", 3),
    ],
)
def test_codecs_keep_pictures_times_and_tags(tmp_path, codec, suffix, tolerance):
    pictures = images()
    path = tmp_path / f"a.{suffix}"
    write(path, pictures, codec=codec, colour_tags=ColourTags(6, True, 6, 6), metadata={"title": "x"})
    info = video_reader.probe(path)
    frames = list(video_reader.read_frames(info))
    assert info.rate == RATE and info.is_constant_rate and len(frames) == 6 and info.metadata["title"] == "x"
    assert [frame.time for frame in frames] == [n / RATE for n in range(6)]
    if codec != "ffv1":
        assert info.colour_tags == ColourTags(6, False, 6, 6)
    for frame, picture in zip(frames, pictures, strict=True):
        error = np.abs(frame.image.astype(int) - picture)[
            8::16, 8::16
        ]  # chroma is halved at the patches' edges
        assert error.mean() <= tolerance


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
    pictures = images(2, (37, 51))
    writer = write(tmp_path / "a.mp4", pictures)
    info = video_reader.probe(tmp_path / "a.mp4")
    assert (info.height, info.width) == (36, 50) and "cropped to 50x36" in writer.notes[0]
    write(tmp_path / "a.mkv", pictures, codec="ffv1")
    frames = list(video_reader.read_frames(video_reader.probe(tmp_path / "a.mkv")))
    np.testing.assert_array_equal(frames[1].image, pictures[1])


def test_sample_aspect_ratio_is_kept(tmp_path):
    write(tmp_path / "a.mp4", images(), sample_aspect_ratio=Fraction(16, 15))
    assert video_reader.probe(tmp_path / "a.mp4").sample_aspect_ratio == Fraction(16, 15)


def test_uneven_times_are_kept(tmp_path):
    stamps = [0, 20, 35, 100, 140, 200]
    video = VideoFormat(64, 96, rate=Fraction(30), time_base=Fraction(1, 90000))
    with VideoWriter(tmp_path / "a.mp4", video) as writer:
        for i, picture in enumerate(images()):
            end = [*stamps[1:], 300][i]
            writer.write(picture, Fraction(stamps[i], 1000), Fraction(end - stamps[i], 1000))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert [frame.pts * stream.time_base * 1000 for frame in container.decode(stream)] == stamps
        assert stream.duration * stream.time_base == Fraction(3, 10)


def test_nothing_is_left_after_an_error(tmp_path):
    video = VideoFormat(64, 96, rate=RATE, time_base=1 / RATE)
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", video) as writer:
        writer.write(images()[0], Fraction(0), 1 / RATE)
        assert not (tmp_path / "a.mp4").exists()
        raise RuntimeError
    with pytest.raises(RuntimeError), PictureWriter(tmp_path / "pictures") as writer:
        writer.write(images()[0], Fraction(0), 1 / RATE)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_pictures_replace_only_pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "00000009.png").write_bytes(b"old")
    with PictureWriter(folder) as writer:
        for picture in images(2):
            writer.write(picture, Fraction(0), Fraction(1))
    assert sorted(f.name for f in folder.iterdir()) == ["00000000.png", "00000001.png", "notes.txt"]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "00000001.png")), images(2)[1])
    assert [f.name for f in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("a.webm", {"codec": "h264"}, "does not support"),
        ("a.nothing", {}, "cannot be written"),
        ("a.mp4", {"crf": 99}, "crf=99"),
        ("a.mkv", {"codec": "ffv1", "crf": 10}, "crf=10"),
        ("a.mp4", {"codec": "cinepak"}, "codec 'cinepak'"),
    ],
)
def test_impossible_outputs_are_named(tmp_path, name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / name, images(1), **kwargs)
    assert list(tmp_path.iterdir()) == []


def test_targets_are_checked(tmp_path):
    existing = tmp_path / "a.mp4"
    existing.touch()
    with pytest.raises(ValueError, match="exists; --overwrite"):
        video_writer.check_target(existing, overwrite=False)
    video_writer.check_target(existing, overwrite=True)
    video_writer.check_target(tmp_path / "b.mp4", overwrite=False)
    with pytest.raises(ValueError, match="does not exist"):
        video_writer.check_target(tmp_path / "none" / "b.mp4", overwrite=False)
