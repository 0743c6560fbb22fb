"""Inputs of many kinds, made by a seed, through the whole job with a network that blends.

container x picture x sound x defect of time x damage x name x output. Whatever the input, a job ends with a file, or
refuses with one line before the first frame; what is undamaged comes out as long as it went in, within a frame.
"""

import dataclasses
import random
import re
from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.inference.__main__ import main
from stvsr_jax.video import media

SIZE = (32, 48)
X265_SIZE = (64, 96)  # smaller pictures make x265 write past its memory
# Which pictures and sounds a container takes.
PICTURES = {
    "mp4": ("libx264", "mpeg4", "libx265", "mjpeg"),
    "mov": ("libx264", "mjpeg", "prores_ks", "qtrle", "png"),
    "mkv": ("libx264", "mpeg4", "mpeg2video", "ffv1", "libvpx-vp9", "mjpeg"),
    "avi": ("mpeg4", "mjpeg", "huffyuv", "msmpeg4", "rawvideo"),
    "ts": ("mpeg2video", "libx264", "libx265"),
    "mpg": ("mpeg1video", "mpeg2video"),
    "vob": ("mpeg2video",),
    "webm": ("libvpx", "libvpx-vp9"),
    "flv": ("flv", "libx264"),
    "wmv": ("wmv2", "msmpeg4"),
    "3gp": ("libx264", "mpeg4"),
    "nut": ("libx264", "ffv1", "mpeg4"),
}
SOUNDS = {
    "mp4": ("aac", "ac3", "libmp3lame", "libopus", "alac", "flac", "eac3"),
    "mov": ("aac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "alac", "ac3", "adpcm_ima_qt", "pcm_mulaw"),
    "mkv": ("aac", "ac3", "libmp3lame", "libopus", "flac", "pcm_s16le", "pcm_f32le", "tta", "wavpack", "mp2"),
    "avi": (
        "pcm_s16le",
        "pcm_u8",
        "libmp3lame",
        "ac3",
        "adpcm_ms",
        "adpcm_ima_wav",
        "aac",
        "pcm_alaw",
        "wmav2",
    ),
    "ts": ("aac", "ac3", "mp2", "libopus", "libmp3lame", "eac3"),
    "mpg": ("mp2", "ac3", "libmp3lame"),
    "vob": ("ac3", "mp2", "pcm_dvd"),
    "webm": ("libopus",),
    "flv": ("aac", "libmp3lame", "pcm_s16le"),
    "wmv": ("wmav2", "wmav1", "ac3", "libmp3lame"),
    "3gp": ("aac",),
    "nut": ("pcm_s16le", "flac", "aac", "pcm_s32le"),
}
LAYOUTS = ("mono", "stereo", "stereo", "5.1", "7.1")
RATES = {"3gp": 8000, "libopus": 48000, "wmav1": 44100, "adpcm_ima_qt": 44100, "pcm_dvd": 48000}
TIMES = ("none", "none", "dropped", "dropped", "late", "varying", "pause", "repeated", "joined")
JOINABLE = ("ts", "mpg", "vob")
DAMAGES = ("none", "none", "none", "bytes", "cut", "sound")
NAMES = ("a", "a", "12:30", "Ä ö", "b" * 240, "50%d", "caf\udce9", "a.b.c", "-x")
OUTPUTS = ("mp4", "mp4", "mp4", "mov", "mkv", "ts", "avi", "")
OPTIONS = ((), (), ("--segment", "1"), ("--segment", "2"), ("--time", "1"), ("--time", "3"), ("--fps", "30"))


@dataclasses.dataclass(frozen=True)
class Case:
    """An input, an output and how to make it; see the lists above."""

    seed: int
    container: str
    picture: str
    sound: str | None
    layout: str
    times: str
    damage: str
    name: str
    output: str
    options: tuple[str, ...]


def draw(seed):
    """Returns the case of a seed."""
    rng = random.Random(seed)
    container = rng.choice(sorted(PICTURES))
    times = rng.choice(TIMES)
    if times == "joined" and container not in JOINABLE:
        container = rng.choice(JOINABLE)
    return Case(
        seed,
        container,
        rng.choice(PICTURES[container]),
        rng.choice((*SOUNDS[container], None)),
        rng.choice(LAYOUTS),
        times,
        rng.choice(DAMAGES),
        rng.choice(NAMES),
        rng.choice(OUTPUTS),
        rng.choice(OPTIONS),
    )


def choose_ticks(case, rng):
    """Returns when frames are shown, in 25ths of a second."""
    ticks = list(range(rng.randint(12, 40)))
    if case.times == "dropped":
        ticks = [n for n in ticks if n in (0, 1) or rng.random() > 0.08]
    elif case.times == "late":
        ticks = [n + 50 for n in ticks]
    elif case.times == "varying":
        ticks = np.cumsum([0, *(rng.choice((1, 1, 2, 3)) for _ in ticks[1:])]).tolist()
    elif case.times == "pause":
        ticks = [n + 75 * (n > len(ticks) // 2) for n in ticks]
    return ticks


def open_sound(container, case):
    """Returns a stream of the case's sound, in fewer channels where its encoder has no more; None if in none."""
    rate = RATES.get(case.container, RATES.get(case.sound, 48000))
    for layout in dict.fromkeys((case.layout, "stereo", "mono")):
        trial = av.CodecContext.create(case.sound, "w")
        trial.layout, trial.sample_rate, trial.format = layout, rate, trial.codec.audio_formats[0]
        trial.options = {"strict": "-2"}
        try:
            trial.open()
        except av.FFmpegError:
            continue
        stream = container.add_stream(case.sound, rate=rate)
        stream.codec_context.layout = layout
        stream.codec_context.options = {"strict": "-2"}
        if case.sound.startswith("wma"):
            stream.codec_context.bit_rate = 128000
        return stream
    return None


def make(path, case):
    """Writes the input; returns seconds of picture and of sound (None without), as FFmpeg reads them undamaged."""
    rng = random.Random(case.seed)
    ticks = choose_ticks(case, rng)
    end = Fraction(ticks[-1] - ticks[0] + 1, 25)
    with media.open_to_write(path) as container:
        video = container.add_stream(case.picture, rate=25)
        size = video.height, video.width = X265_SIZE if case.picture == "libx265" else SIZE
        video.pix_fmt = (video.codec_context.codec.video_formats or [av.VideoFormat("yuv420p")])[0].name
        if case.picture.startswith("libx"):
            video.codec_context.options = {"preset": "ultrafast", "bf": "2", "x265-params": "log-level=none"}
        audio = open_sound(container, case) if case.sound else None
        container.start_encoding()
        packets = []
        for i, tick in enumerate(ticks):
            image = np.full((*size, 3), 40 + 5 * (i % 30), np.uint8)
            image[:, i % 40 : i % 40 + 8] = 220
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            packets += [(video, packet) for packet in video.encode(frame)]
        packets += [(video, packet) for packet in video.encode(None)]
        if audio:
            packets += [(audio, packet) for packet in encode_tone(audio, Fraction(ticks[0], 25), end)]
        packets = [entry for entry in packets if entry[1].size]
        sounds = [packet for stream, packet in packets if stream is audio]
        if case.times == "repeated" and len(sounds) > 8:
            sounds[6].pts = sounds[6].dts = sounds[5].pts
        packets.sort(key=lambda entry: entry[1].dts * entry[1].time_base)
        for stream, packet in packets:
            if case.damage == "sound" and stream is audio and rng.random() < 0.1:
                data = bytearray(bytes(packet))
                for _ in range(4):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                packet.update(bytes(data))
            packet.stream = stream
            container.mux(packet)
    seconds, heard = measure(path)
    data = bytearray(path.read_bytes())
    if case.times == "joined":
        data, seconds, heard = data * 2, 2 * seconds, heard and 2 * heard
    if case.damage == "bytes":
        for _ in range(25):
            data[rng.randrange(len(data) // 10, len(data))] = rng.randrange(256)
    elif case.damage == "cut":
        del data[rng.randrange(len(data) // 2, len(data)) :]
    path.write_bytes(data)
    return seconds, heard


def encode_tone(audio, start, seconds):
    rate, layout = audio.codec_context.sample_rate, audio.codec_context.layout
    tone = (8000 * np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * 440 / rate)).astype(np.int16)
    for begin in range(0, len(tone), 1024):
        piece = tone[begin : begin + 1024].repeat(layout.nb_channels)[None]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="s16", layout=layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, begin + int(start * rate), Fraction(1, rate)
        yield from audio.encode(frame)
    yield from audio.encode(None)


def measure(path):
    """Returns (seconds from the first frame to the end of the last, seconds of sound or None)."""
    with media.open_to_read(path) as container:
        video = container.streams.video[0]
        frames = [
            (frame.pts, frame.duration * frame.time_base / video.time_base)
            for frame in decode(container, video)
        ]
        frames.sort()
        times = [pts * video.time_base for pts, _ in frames]
        last = frames[-1][1] * video.time_base
        is_shown_as_decoded = path.suffix == ".avi" and not video.codec_context.has_b_frames
    if is_shown_as_decoded:  # there are no other times in AVI; FFmpeg takes the ends of H.264 frames for them
        with media.open_to_read(path) as container:
            video = container.streams.video[0]
            times = sorted(p.dts * p.time_base for p in container.demux(video) if p.size)
            last = video.duration * video.time_base - times[-1]
    with media.open_to_read(path) as container:
        heard = None
        if container.streams.audio:
            heard = Fraction(sum(frame.samples for frame in decode(container, container.streams.audio[0])))
            heard /= (
                container.streams.audio[0].codec_context.sample_rate or 1
            )  # none is known of damaged sound
    usual = sorted(b - a for a, b in zip(times, times[1:], strict=False))[len(times) // 2 - 1]
    return times[-1] - times[0] + (last or usual), heard


def measure_lead(path):
    """Returns for how many seconds a file runs before its picture begins."""
    with media.open_to_read(path) as container:
        video = container.streams.video[0]
        return (video.start_time or 0) * video.time_base - Fraction(container.start_time or 0, av.time_base)


def decode(container, stream):
    """Decodes what can be decoded: damaged sound is copied as it is."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            pass


def check(case, folder, checkpoint, capsys):
    """Runs a case; raises AssertionError with what is wrong."""
    source = folder / f"{case.name}.{case.container}"
    try:
        seconds, expected = make(source, case)
    except (av.FFmpegError, ValueError):
        return "no such input"  # FFmpeg does not write it
    target = folder / "out" / (f"{case.name}.{case.output}" if case.output else "pictures")
    target.parent.mkdir()
    arguments = [f"./{source.name}" if source.name.startswith("-") else source, target]
    code = main([*map(str, arguments), "--checkpoint", str(checkpoint), "--space", "2", *case.options])
    output = capsys.readouterr()
    lines = [line for line in re.split("[\r\n]", output.err) if line.strip() and "frame/s" not in line]
    assert "Traceback" not in output.err, lines
    assert not [line for line in lines if "/trial" in line or "whole." in line], lines
    if code:
        assert code == 2 and case.damage != "none", (code, lines)
        assert not list(target.parent.iterdir())
        return "refused"
    made = list(target.parent.iterdir())
    if made != [target]:
        assert case.damage != "none" and made == [target.with_suffix(".mkv")], (made, lines)
        return "made in Matroska"
    is_tiny = (
        case.output == "ts" and target.stat().st_size < 4000
    )  # FFmpeg does not know so short a one for what it is
    if not case.output or (case.damage != "none" and is_tiny):
        return "made"
    found, heard = measure(target)
    if case.damage == "none":
        slack = Fraction(1, 25) + Fraction(1, 500)
        lead = (
            measure_lead(source) if case.output == "avi" else 0
        )  # its first picture is there from the start
        assert -slack <= found - seconds <= slack + lead, (
            float(found),
            float(seconds),
            lines,
        )
        assert (heard is None) == (expected is None), lines
        assert not expected or abs(heard - expected) < 0.15, (float(heard), float(expected), lines)
    return "made"


@pytest.fixture
def run_seeds(tmp_path, checkpoints, capsys, monkeypatch):
    """Returns run(seeds): checks each case and raises one error that names all that fail."""

    def run(seeds):
        failures, results = [], []
        for seed in seeds:
            folder = tmp_path / str(seed)
            folder.mkdir()
            monkeypatch.chdir(folder)
            case = draw(seed)
            try:
                results.append(check(case, folder, checkpoints["videoinr"], capsys))
            except Exception as error:
                failures.append(f"{case}\n    {type(error).__name__}: {' '.join(str(error).split())[:600]}")
        assert not failures, f"{len(failures)} of {len(seeds)} fail\n" + "\n".join(failures)
        return results

    return run


def test_twenty_inputs_end_with_a_file(run_seeds):
    assert run_seeds(range(20)).count("made") >= 15


@pytest.mark.heavy
@pytest.mark.parametrize("hundred", range(1, 12))
def test_a_thousand_inputs_end_with_a_file(run_seeds, hundred):
    assert run_seeds(range(100 * hundred, 100 * hundred + 100)).count("made") >= 75
