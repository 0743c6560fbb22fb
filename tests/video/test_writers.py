"""Files written and read back."""

import json
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from stvsr_jax.video import media, sequential_reader, writers
from stvsr_jax.video.colour import ColourTags, to_8_bits
from stvsr_jax.video.encoding import VideoFormat
from stvsr_jax.video.output_file import OutputFile
from stvsr_jax.video.writers import PictureWriter, VideoWriter

RATE = Fraction(60000, 1001)


def images(count=6, size=(64, 96)):
    rng = np.random.default_rng(0)
    patches = rng.integers(16, 235, (count, size[0] // 16 + 1, size[1] // 16 + 1, 3), dtype=np.uint8)
    return patches.repeat(16, 1).repeat(16, 2)[:, : size[0], : size[1]]


def write(path, pictures, **kwargs):
    height, width = pictures[0].shape[:2]
    video = VideoFormat(height, width, rate=RATE, time_base=1 / RATE, **kwargs)
    file = OutputFile(path, video)
    writer = VideoWriter(file, work_folder(path) / "0.packets")
    for i, picture in enumerate(pictures):
        writer.write(writer.prepare(picture, i), i / RATE, 1 / RATE)
    writer.store(writer.cut())
    writer.finish()
    return file


def work_folder(path):
    work = path.with_name(f"{path.name}.work")
    work.mkdir()
    return work


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
    info = sequential_reader.probe(path)
    frames = list(sequential_reader.read_frames(info))
    assert info.rate == RATE and info.is_constant_rate and len(frames) == 6 and info.metadata["title"] == "x"
    assert [frame.time for frame in frames] == [n / RATE for n in range(6)]
    if codec != "ffv1":
        assert info.colour_tags == ColourTags(6, False, 6, 6)
    for frame, picture in zip(frames, pictures, strict=True):
        error = np.abs(to_8_bits(frame.image).astype(int) - picture)[
            8::16, 8::16
        ]  # chroma is halved at the patches' edges
        assert error.mean() <= tolerance


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
    pictures = images(2, (37, 51))
    file = write(tmp_path / "a.mp4", pictures)
    info = sequential_reader.probe(tmp_path / "a.mp4")
    assert (info.height, info.width) == (36, 50) and "cropped to 50x36" in file.notes[0]
    write(tmp_path / "a.mkv", pictures, codec="ffv1")
    frames = list(sequential_reader.read_frames(sequential_reader.probe(tmp_path / "a.mkv")))
    np.testing.assert_array_equal(frames[1].image, pictures[1])


def test_sample_aspect_ratio_is_kept(tmp_path):
    write(tmp_path / "a.mp4", images(), sample_aspect_ratio=Fraction(16, 15))
    assert sequential_reader.probe(tmp_path / "a.mp4").sample_aspect_ratio == Fraction(16, 15)


def test_uneven_times_are_kept(tmp_path):
    pts = [0, 20, 35, 100, 140, 200]
    video = VideoFormat(64, 96, rate=Fraction(30), time_base=Fraction(1, 90000))
    writer = VideoWriter(OutputFile(tmp_path / "a.mp4", video), work_folder(tmp_path / "a.mp4") / "0.packets")
    for i, picture in enumerate(images()):
        end = [*pts[1:], 300][i]
        writer.write(writer.prepare(picture, i), Fraction(pts[i], 1000), Fraction(end - pts[i], 1000))
    writer.store(writer.cut())
    writer.finish()
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert [frame.pts * stream.time_base * 1000 for frame in container.decode(stream)] == pts
        assert stream.duration * stream.time_base == Fraction(3, 10)


@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264", "mp4"), ("hevc", "mkv"), ("av1", "mp4"), ("ffv1", "mkv"), ("h264", "avi")]
)
def test_going_on_after_a_segment_gives_the_same_packets(tmp_path, codec, suffix):
    pictures = images(30)
    found = []
    for is_stopped in (False, True):
        path = tmp_path / f"{codec}{is_stopped}.{suffix}"
        video = VideoFormat(64, 96, rate=RATE, time_base=1 / RATE, codec=codec)
        store = work_folder(path) / "0.packets"
        writer = VideoWriter(OutputFile(path, video), store)
        mark = None
        for i, picture in enumerate(pictures):
            if i in (10, 20):
                mark = writer.store(writer.cut())
            if is_stopped and i == 17:  # seven frames are lost and come again
                writer.close()
                writer = VideoWriter(OutputFile(path, video), store, json.loads(json.dumps(mark)))
                for k in range(10, 17):
                    writer.write(writer.prepare(pictures[k], k), k / RATE, 1 / RATE)
            writer.write(writer.prepare(picture, i), i / RATE, 1 / RATE)
        writer.store(writer.cut())
        writer.finish()
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [(p.pts, p.dts, bytes(p)) for p in container.demux(stream) if p.size]
        found.append(packets)
        frames = list(sequential_reader.read_frames(sequential_reader.probe(path)))
        assert len(frames) == 30
        tones = [
            frame.image[8, 8].astype(int) - picture[8, 8]
            for frame, picture in zip(frames, pictures, strict=True)
        ]
        assert np.abs(tones).mean() < 6
    assert found[0] == found[1]


@pytest.mark.parametrize("segment", [1, 2, 6])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_frames_missing_anywhere_leave_a_file(tmp_path, codec, suffix, segment):
    # Encoders date the first packets of a segment back by the gap after its first frame.
    gaps = [0, *(2 if i % segment == 1 else 1 for i in range(1, 24))]
    kept = np.cumsum(gaps).tolist()
    rate = Fraction(25)
    path = tmp_path / f"a.{suffix}"
    video = VideoFormat(64, 96, rate=rate, time_base=1 / rate, codec=codec)
    writer = VideoWriter(OutputFile(path, video), work_folder(path) / "0.packets")
    for i, (n, picture) in enumerate(zip(kept, images(len(kept)), strict=True)):
        if i and i % segment == 0:
            writer.store(writer.cut())
        writer.write(writer.prepare(picture, n), n / rate, 1 / rate)
    writer.store(writer.cut())
    writer.finish()
    with media.open_to_read(path) as container:
        stream = container.streams.video[0]
        found = [frame.pts * stream.time_base for frame in container.decode(stream)]
    assert [float(time - found[0]) for time in found] == pytest.approx([n / 25 for n in kept], abs=1e-3)


def test_a_partial_file_can_be_played(tmp_path):
    path = tmp_path / "a.mp4"
    writer = VideoWriter(
        OutputFile(path, VideoFormat(64, 96, rate=RATE, time_base=1 / RATE)), work_folder(path) / "0.packets"
    )
    for i, picture in enumerate(images()[:5]):
        if i == 3:
            writer.store(writer.cut())
        writer.write(writer.prepare(picture, i), i / RATE, 1 / RATE)
    writer.store(writer.cut())
    partial = writer.finish_partial()
    assert partial.name == "a.partial.mp4" and not path.exists()
    assert len(list(sequential_reader.read_frames(sequential_reader.probe(partial)))) == 5


def test_pictures_replace_only_pictures_and_go_on(tmp_path):
    folder, work = tmp_path / "pictures", tmp_path / "work"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "00000009.png").write_bytes(b"old")
    given = images(4)
    writer = PictureWriter(folder, work)
    writer.write(writer.prepare(given[0], 0), Fraction(0), Fraction(1))
    mark = writer.store(writer.cut())
    for n, picture in enumerate(given[[2, 3, 3]], 1):  # lost, and one more than there will be
        writer.write(writer.prepare(picture, n), Fraction(0), Fraction(1))
    writer = PictureWriter(folder, work, mark)
    for n, picture in enumerate(given[1:3], 1):
        writer.write(writer.prepare(picture, n), Fraction(0), Fraction(1))
    assert [f.name for f in folder.glob("*.png")] == ["00000009.png"]
    writer.store(writer.cut())
    writer.finish()
    names = ["00000000.png", "00000001.png", "00000002.png", "notes.txt"]
    assert sorted(f.name for f in folder.iterdir()) == names
    for n in range(3):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{n:08d}.png")), given[n])


@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format", "expected"),
    [
        ("hevc", "mp4", None, "yuv420p10le"),
        ("av1", "mkv", None, "yuv420p10le"),
        ("h264", "mp4", "yuv420p10le", "yuv420p10le"),
        ("h264", "mp4", None, "yuv420p"),
        ("ffv1", "mkv", None, "gbrp16le"),
        ("prores", "mov", "yuv444p10le", "yuv444p10le"),
    ],
)
def test_ten_bits_stay_ten_bits(tmp_path, codec, suffix, pixel_format, expected):
    # A ramp of 10-bit levels in flat columns of 16 pixels.
    levels = np.linspace(400, 440, 6).astype(int)
    ramp = (levels / 1023 * 65535).astype(np.uint16).repeat(16)
    pictures = np.broadcast_to(ramp[None, None, :, None], (3, 64, 96, 3))
    path = tmp_path / f"a.{suffix}"
    write(path, pictures, codec=codec, pixel_format=pixel_format, is_deep=True)
    info = sequential_reader.probe(path)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).format.name == expected
    frame = next(sequential_reader.read_frames(info))
    is_deep = expected != "yuv420p"
    assert frame.image.dtype == (np.uint16 if is_deep else np.uint8)
    middle = frame.image[32, 8::16, 1] / np.iinfo(frame.image.dtype).max * 1023
    assert np.abs(middle - levels).max() <= (2 if is_deep else 6)
    if codec == "ffv1":
        np.testing.assert_array_equal(frame.image, pictures[0])


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("a.webm", {"codec": "h264"}, "does not support"),
        ("a.nothing", {}, "cannot be written"),
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
        writers.check_output(existing, overwrite=False)
    writers.check_output(existing, overwrite=True)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="is a device or pipe"):
        writers.check_output(tmp_path / "pipe.mp4", overwrite=True)
    writers.check_output(tmp_path / "b.mp4", overwrite=False)
    with pytest.raises(ValueError, match="does not exist"):
        writers.check_output(tmp_path / "none" / "b.mp4", overwrite=False)
