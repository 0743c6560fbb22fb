"""Files whose timestamps start again or leap, made by joining files and by writing such timestamps."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.inference import request
from stvsr_jax.video import sequential_reader, timeline

MS = Fraction(1, 1000)


def tones(first, count):
    return [np.full((48, 64, 3), 20 + 2 * n, np.uint8) for n in range(first, first + count)]


def write(path, images, times, *, codec, sound=None):
    """Writes images at `times` seconds, and `sound` seconds of a tone from the first of them on."""
    options = {"mpegts_copyts": "1"} if path.suffix == ".ts" else {}
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000 if codec == "libx264" else 25)
        speech = container.add_stream("mp2", rate=48000, layout="mono") if sound else None
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(Fraction(time) / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for start in range(0, int((sound or 0) * 48000), 1152):
            frame = av.AudioFrame.from_ndarray(np.full((1, 1152), 500, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
            frame.pts = start + round(times[0] * 48000)
            container.mux(speech.encode(frame))
        if speech:
            container.mux(speech.encode(None))
    return path


def steady(count, start=0):
    return [start + Fraction(n, 25) for n in range(count)]


def join(target, *parts):
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target


def read(path):
    info = sequential_reader.probe(path)
    frames = list(sequential_reader.read_frames(info))
    return info, frames, [float(np.median(frame.image)) for frame in frames]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.ts", "libx264"), ("a.vob", "mpeg2video"), ("a.mpg", "mpeg1video"), ("a.mkv", "libx264")],
)
def test_joined_files_follow_each_other(tmp_path, name, codec):
    lengths = (30, 20) if name == "a.mkv" else (30, 12, 8)  # FFmpeg reads no more of a joined Matroska file
    parts = [
        write(tmp_path / f"{i}{name}", tones(sum(lengths[:i]), length), steady(length), codec=codec)
        for i, length in enumerate(lengths)
    ]
    info, frames, values = read(join(tmp_path / name, *parts))
    assert (
        info.is_constant_rate
        and info.rate == 25
        and info.timeline.shifts == tuple(Fraction(sum(lengths[:i]), 25) for i in range(len(lengths)))
    )
    assert [frame.time - frames[0].time for frame in frames] == steady(50)
    assert {frame.duration for frame in frames} == {Fraction(1, 25)}
    assert np.abs(np.subtract(values, [20 + 2 * n for n in range(50)])).max() <= 3


def test_an_hour_that_is_leapt_over_takes_no_time(tmp_path):
    times = steady(20) + steady(20, 3600)
    info, frames, _ = read(write(tmp_path / "a.ts", tones(0, 40), times, codec="libx264"))
    assert info.timeline.shifts == (0, -3600 + Fraction(20, 25)) and info.is_constant_rate
    assert [frame.time - frames[0].time for frame in frames] == steady(40)


def test_a_gap_with_sound_is_a_pause(tmp_path):
    times = steady(20) + steady(20, 70)
    info, frames, _ = read(write(tmp_path / "a.ts", tones(0, 40), times, codec="libx264", sound=70))
    assert not info.timeline.parts
    assert frames[-1].time - frames[0].time == times[-1]
    # It stands for all of that but one step.
    assert [(frame.duration, frame.still) for frame in frames if frame.still] == [
        (70 - Fraction(19, 25), 70 - Fraction(20, 25))
    ]


def test_time_before_the_counter_begins_again_is_not_lost(tmp_path):
    wrap = Fraction(2**33, 90000)
    info, frames, _ = read(write(tmp_path / "a.ts", tones(0, 50), steady(50, wrap - 1), codec="libx264"))
    assert [frame.time for frame in frames] == steady(50) and info.origin == -1


def test_timestamps_that_rise_are_left_alone(tmp_path):
    for name, start in (("a.ts", 100), ("b.mkv", 0)):
        path = write(tmp_path / name, tones(0, 12), steady(12, start), codec="libx264")
        assert sequential_reader.probe(path).timeline.parts == ()


@pytest.mark.parametrize(
    ("times", "starts"),
    [
        ([(0, 80), (40, 200), (80, 120), (120, 160)], []),  # frames stored out of order
        ([(0, 80), (40, 120), (0, 80), (40, 120)], []),  # too little to be more than a slip
        ([(0, 80), (400, 480), (0, 80), (400, 480), (40, 120)], [2, 4]),
        ([(None, 0), (None, 120), (0, 40), (40, 80), (0, 0), (40, 40)], []),
        ([(None, 900), (None, 300), (None, 600)], []),
        ([(None, 0), (None, 2000), (None, 0)], [2]),
        ([(None, None)] * 3, []),
    ],
)
def test_restarts_are_where_decoding_times_fall(times, starts):
    assert timeline.find_restarts(times, MS) == starts


def test_joined_files_are_noted(tmp_path):
    parts = [write(tmp_path / f"{i}.ts", tones(0, 12), steady(12), codec="libx264") for i in range(3)]
    path = join(tmp_path / "a.ts", *parts)
    plan = request.make_plan(request.Request(path, tmp_path / "out.mp4"), "zooming_slowmo")
    assert (plan.input_frames, plan.output_frames, plan.video.rate) == (36, 72, 50)
    assert [remark for remark in plan.remarks if "start again or leap in 2 places" in remark]


def test_a_picture_begins_at_zero_exactly(tmp_path):
    # Files tell their beginning in whole microseconds.
    start = Fraction(2**33 - 7 * 3600 + 1, 90000)
    for first in (start, Fraction(100001, 90000)):
        info, frames, _ = read(write(tmp_path / "a.ts", tones(0, 4), steady(4, first), codec="libx264"))
        assert frames[0].time == 0, (info.origin, first)


@pytest.mark.parametrize("wild", [20, 40000])
def test_a_frame_with_a_wild_timestamp_costs_no_time(wild):
    facts = [(n, 40 * n, 40 * n) for n in range(40)]
    facts[20] = (20, 1000 * wild, 1000 * wild)  # milliseconds
    starts = timeline.find_restarts([fact[1:] for fact in facts], MS)
    assert starts == [21]
    pts, parts = timeline._put_in_line([facts[:21], facts[21:]], MS, None)
    assert pts == [40 * n for n in range(40)]
    assert [part.shift for part in parts] == [0, 0]
    assert parts[0].move(Fraction(wild)) == Fraction(80, 100) and parts[1].move(
        Fraction(84, 100)
    ) == Fraction(84, 100)


def test_pictures_of_an_avi_come_when_they_are_decoded(tmp_path):
    # FFmpeg takes the end of each frame of H.264 for its beginning: a gap would move to the frame before.
    ticks = [0, 2, 3, 7, 8, 9, 12, 13, 14, 15]
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for tick, image in zip(ticks, tones(0, 10), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.dts for packet in packets] == ticks != [packet.pts for packet in packets]
    info, frames, values = read(path)
    assert info.origin == 0 and [frame.time for frame in frames] == [Fraction(n, 25) for n in ticks]
    assert np.abs(np.subtract(values, [20 + 2 * n for n in range(10)])).max() <= 3
