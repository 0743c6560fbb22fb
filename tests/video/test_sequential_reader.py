"""Inputs made with PyAV and Pillow, read back."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from stvsr_jax.video import sequential_reader


def tones(count, size=(32, 48)):
    """Flat frames, 8 levels apart, with a bright upper left quarter."""
    images = []
    for i in range(count):
        image = np.full((*size, 3), 16 + 8 * i, np.uint8)
        image[: size[0] // 2, : size[1] // 2] = 220
        images.append(image)
    return images


def read_tones(frames):
    return [int(np.median(frame.image[-8:, -8:])) for frame in frames]


def test_frames_come_in_order_with_their_times(tmp_path, write_video):
    images = tones(25)
    path = write_video(tmp_path / "a.mp4", images, fps=Fraction(30000, 1001), metadata={"title": "x"})
    info = sequential_reader.probe(path)
    assert (info.height, info.width, info.rate, info.frame_count) == (32, 48, Fraction(30000, 1001), 25)
    assert info.is_constant_rate and info.metadata["title"] == "x" and info.colour_tags.matrix == 6
    frames = list(sequential_reader.read_frames(info))
    assert [frame.time for frame in frames] == [n * Fraction(1001, 30000) for n in range(25)]
    assert np.abs(np.subtract(read_tones(frames), [image[-1, -1, 0] for image in images])).max() <= 2


def test_varying_rate_keeps_its_times(tmp_path, write_video):
    pts = [0, 40, 80, 200, 240, 280, 330, 500]
    info = sequential_reader.probe(write_video(tmp_path / "a.mkv", tones(8), pts=pts))
    assert not info.is_constant_rate
    frames = list(sequential_reader.read_frames(info))
    assert [frame.time * 1000 for frame in frames] == pts
    assert [frame.duration * 1000 for frame in frames[:-1]] == list(np.diff(pts))


def test_a_pause_stands_still_until_one_usual_step_before_its_end(tmp_path, write_video):
    pts = [0, 35, 80, 115, 160, 21160, 21200, 21235, 21280]
    info = sequential_reader.probe(write_video(tmp_path / "a.mkv", tones(9), pts=pts))
    assert not info.is_constant_rate and info.usual_step == Fraction(42, 1000)
    frames = list(sequential_reader.read_frames(info))
    assert [frame.still for frame in frames] == [0] * 4 + [Fraction(20958, 1000)] + [0] * 4
    steady = [40 * n for n in range(200) if not 60 <= n < 75]
    info = sequential_reader.probe(write_video(tmp_path / "b.mkv", tones(20) * 9 + tones(5), pts=steady))
    frames = list(sequential_reader.read_frames(info))
    assert info.is_constant_rate and [(n, f.still) for n, f in enumerate(frames) if f.still] == [
        (59, 15 * Fraction(1, 25))
    ]


def test_the_last_picture_stands_as_long_as_the_file_says(tmp_path, write_video):
    pictures = [Image.fromarray(image) for image in tones(5)]
    durations = [40] * 4 + [2000]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=durations)
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=durations, lossless=True
    )
    plain = write_video(tmp_path / "plain.mp4", tones(5), codec="mpeg4")
    with av.open(str(plain)) as given, av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        packets[-1].duration = round(2 / packets[-1].time_base)
        for packet in packets:
            packet.stream = stream
            container.mux(packet)
    for name in ("a.gif", "a.webp", "a.mp4"):
        info = sequential_reader.probe(tmp_path / name)
        frames = list(sequential_reader.read_frames(info))
        assert info.is_constant_rate and info.rate == 25, name
        assert len(frames) == info.frame_count == 54, name
        assert {frame.duration for frame in frames} == {Fraction(1, 25)}, name
        assert frames[-1].time == Fraction(53, 25) and all(
            frame.image is frames[4].image for frame in frames[4:]
        )
        assert len(list(sequential_reader.read_frames(info, limit=7))) == 7
        assert len(list(sequential_reader.read_frames(info, seconds=Fraction(1)))) == 25


def test_raw_stream_has_the_rate_it_is_given(tmp_path, write_video):
    path = write_video(tmp_path / "a.h264", tones(10), fps=24)
    info = sequential_reader.probe(path, rate=Fraction(50))
    frames = list(sequential_reader.read_frames(info))
    assert info.rate == 50 and info.frame_count == 10
    assert [frame.time for frame in frames] == [Fraction(n, 50) for n in range(10)]


def test_limits(tmp_path, write_video):
    info = sequential_reader.probe(write_video(tmp_path / "a.mp4", tones(20)))
    assert len(list(sequential_reader.read_frames(info, limit=7))) == 7
    assert len(list(sequential_reader.read_frames(info, seconds=Fraction(2, 5)))) == 10
    assert all(frame.duration == Fraction(1, 25) for frame in sequential_reader.read_frames(info, limit=7))


@pytest.mark.parametrize(
    ("rotation", "corner"), [(90, "lower left"), (-90, "upper right"), (180, "lower right")]
)
def test_rotation_is_applied(tmp_path, write_video, rotation, corner):
    info = sequential_reader.probe(write_video(tmp_path / "a.mp4", tones(2), rotation=rotation))
    image = next(sequential_reader.read_frames(info)).image
    assert (info.height, info.width) == image.shape[:2] == ((32, 48) if rotation == 180 else (48, 32))
    rows, columns = {"upper": 4, "lower": -4}, {"left": 4, "right": -4}
    quarters = {f"{r} {c}": image[rows[r], columns[c]] for r in rows for c in columns}
    assert max(quarters, key=lambda name: quarters[name][0]) == corner


def test_pictures_are_sorted_by_their_numbers(tmp_path):
    for number in (1, 2, 10):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"frame{number}.png")
    info = sequential_reader.probe(tmp_path, rate=Fraction(24))
    frames = list(sequential_reader.read_frames(info))
    assert [frame.image[0, 0, 0] for frame in frames] == [1, 2, 10]
    assert [frame.time for frame in frames] == [0, Fraction(1, 24), Fraction(2, 24)]


def test_deep_pictures_stay_deep_beside_others(tmp_path):
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "1.png")
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(tmp_path / "2.png")
    info = sequential_reader.probe(tmp_path, rate=Fraction(24))
    images = [frame.image for frame in sequential_reader.read_frames(info)]
    assert info.bit_depth == 16 and [image.dtype for image in images] == [np.uint16] * 2
    assert [image[0, 0, 0] for image in images] == [1000, 7 * 257]


def test_bad_inputs_are_named(tmp_path, write_video):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("no video at all " * 100)
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    video = write_video(tmp_path / "video.mp4", tones(3))
    cut_off = tmp_path / "cut_off.mp4"
    cut_off.write_bytes(video.read_bytes()[:200])
    for path, message in [
        (tmp_path / "none.mp4", "does not exist"),
        (empty, "is empty"),
        (text, "not a video"),
        (sound, "no video stream"),
        (cut_off, "not a video"),
        (tmp_path, "holds no pictures"),
    ]:
        with pytest.raises(ValueError, match=message):
            sequential_reader.probe(path)
    with pytest.raises(ValueError, match="has timestamps"):
        sequential_reader.probe(video, rate=Fraction(30))


def test_pictures_of_different_sizes_are_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="input_fps"):
        sequential_reader.probe(tmp_path)
    Image.new("RGB", (8, 9)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="b.png is 8x9"):
        sequential_reader.probe(tmp_path, rate=Fraction(25))


def test_damaged_packets_are_skipped(tmp_path, write_video):
    rng = np.random.default_rng(0)
    path = write_video(tmp_path / "a.mkv", list(rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    frames = list(sequential_reader.read_frames(sequential_reader.probe(path)))
    assert 1 <= len(frames) <= 12
    assert all(a.time < b.time for a, b in zip(frames, frames[1:], strict=False))


@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("libx265", "yuv420p10le"), ("prores_ks", "yuv422p10le")]
)
def test_ten_bits_come_as_sixteen(tmp_path, codec, pixel_format):
    path = tmp_path / "a.mov"
    levels = np.linspace(300, 340, 6).astype(int)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"x265-params": "log-level=error:qp=4"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixel_format
        luma = np.broadcast_to(levels.repeat(16), (64, 96)).astype("<u2")
        frame = av.VideoFrame(96, 64, pixel_format)
        frame.pts = 0
        for plane, values in zip(frame.planes, (luma, np.full((64, 48), 512, "<u2")), strict=False):
            rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
            rows[:, : plane.width] = values[: plane.height, : plane.width]
            plane.update(rows)
        rows[:, : plane.width] = 512
        frame.planes[2].update(rows)
        for packet in stream.encode(frame) + stream.encode(None):
            packet.dts = packet.pts  # x265 leaves it uninitialised for a single frame
            container.mux(packet)
    info = sequential_reader.probe(path)
    assert info.bit_depth == 10
    image = next(sequential_reader.read_frames(info)).image
    assert image.dtype == np.uint16
    expected = (levels - 64) / 876 * 65535  # limited range
    assert np.abs(image[32, 8::16, 1] - expected).max() < 3 * 64  # of levels that lie 64 apart


def write_interlaced(path, count):
    """A vertical bar that moves four pixels per field, two fields in every frame, and what each first field showed."""

    def picture(field):
        image = np.full((64, 96, 3), 60, np.uint8)
        image[:, 4 * field : 4 * field + 12] = 200
        return image

    with av.open(str(path), "w") as container:
        options = {"crf": "4", "flags": "+ildct+ilme"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i in range(count):
            woven = picture(2 * i + 1)
            woven[1::2] = picture(2 * i)[1::2]  # the lower field is the first
            frame = av.VideoFrame.from_ndarray(woven, format="rgb24").reformat(format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return [picture(2 * i) for i in range(count)]


def test_interlaced_video_is_deinterlaced(tmp_path):
    firsts = write_interlaced(tmp_path / "a.mp4", 8)
    info = sequential_reader.probe(tmp_path / "a.mp4")
    assert info.is_interlaced
    frames = list(sequential_reader.read_frames(info))
    assert [frame.time for frame in frames] == [Fraction(n, 25) for n in range(8)]
    for i in range(1, 7):  # inside: neighbours on both sides
        error = np.abs(frames[i].image.astype(int) - firsts[i])
        assert error[8:-8].mean() < 4, i  # as woven it is 6 off
        comb = np.abs(np.diff(frames[i].image[8:-8, :, 1].astype(int), axis=0)).mean()
        assert comb < 4, i


def test_interlacing_that_begins_later_is_seen_and_undone(tmp_path):
    with av.open(str(tmp_path / "first.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 60, np.uint8), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    write_interlaced(tmp_path / "second.ts", 8)
    joined = tmp_path / "a.ts"
    joined.write_bytes((tmp_path / "first.ts").read_bytes() + (tmp_path / "second.ts").read_bytes())
    info = sequential_reader.probe(joined)
    frames = list(sequential_reader.read_frames(info))
    assert info.is_interlaced and len(frames) == 12
    for frame in frames:
        assert np.abs(np.diff(frame.image[8:-8, :, 1].astype(int), axis=0)).mean() < 4  # woven it is 12


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mov", "qtrle", "argb"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.apng", "apng", "rgba"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
@pytest.mark.parametrize("opaque_frames", [0, 2, 5])
def test_transparent_video_is_shown_on_black_and_noted(tmp_path, name, codec, pixel_format, opaque_frames):
    path = tmp_path / name
    pixels = np.full((32, 48, 4), 255, np.uint8)
    pixels[..., 1:3] = 0  # red
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixel_format
        stream.metadata["alpha_mode"] = "1"
        for i in range(5):
            pixels[:16, :, 3] = 255 if i < opaque_frames else 0
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pixel_format)
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = sequential_reader.probe(path)
    is_transparent = (
        opaque_frames < 5 and codec != "gif"
    )  # GIFs decode with room for transparency, used or not
    assert info.has_alpha == is_transparent
    for i, frame in enumerate(sequential_reader.read_frames(info)):
        image = frame.image / np.iinfo(frame.image.dtype).max
        assert image[24:, :, 0].min() > 0.9
        assert (image[:12, :, 0].max() < 0.1) == (is_transparent and i >= opaque_frames)


@pytest.mark.parametrize("size", [(33, 47), (17, 64), (2, 2)])
def test_odd_sizes_are_read_whole(tmp_path, size):
    path = tmp_path / "a.mkv"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, *size, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr0"
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = list(sequential_reader.read_frames(sequential_reader.probe(path)))
    np.testing.assert_array_equal([frame.image for frame in frames], images)
