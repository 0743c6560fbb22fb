"""Sound encoded anew."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.video import media, sound_converter

RATE = 16000


def convert(path, packets, times, *, codec="pcm_s16le"):
    """Converts packets of 16-bit mono; returns (samples [N], converter)."""
    with media.open_to_write(path) as output:
        stream = sound_converter.add_stream(output, codec, rate=RATE, layout="mono")
        output.start_encoding()
        converter = sound_converter.SoundConverter(stream.codec_context)
        made = [
            p for packet, time in zip(packets, times, strict=True) for p in converter.convert(packet, time)
        ]
        for packet in [*made, *converter.flush()]:
            packet.stream = stream
            output.mux_one(packet)
    with media.open_to_read(path) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]), converter


@pytest.fixture
def packets(tmp_path):
    """Packets of 0.1 s: the first all ones, the second all twos ..."""
    with media.open_to_write(tmp_path / "a.wav") as output:
        stream = output.add_stream("pcm_s16le", rate=RATE)
        stream.layout = "mono"
        for n in range(5):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE // 10), n + 1, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, n * RATE // 10
            output.mux(stream.encode(frame))
    with media.open_to_read(tmp_path / "a.wav") as container:
        found = b"".join(bytes(p) for p in container.demux(audio=0))
    container = media.open_to_read(tmp_path / "a.wav")
    whole = next(container.demux(audio=0))
    made = []
    for n in range(5):
        packet = av.Packet(found[n * RATE // 5 : (n + 1) * RATE // 5])
        packet.stream, packet.time_base = whole.stream, whole.time_base
        made.append(packet)
    yield made
    container.close()


def levels(samples):
    """[(level, seconds)] of what is heard one after the other."""
    ends = [*(np.flatnonzero(np.diff(samples)) + 1), len(samples)]
    starts = [0, *ends[:-1]]
    return [(int(samples[a]), (b - a) / RATE) for a, b in zip(starts, ends, strict=True)]


def test_samples_stay_and_gaps_become_silence(tmp_path, packets):
    tenth = Fraction(1, 10)
    heard, _ = convert(tmp_path / "b.mkv", packets, [n * tenth for n in range(5)])
    assert levels(heard) == [(n + 1, 0.1) for n in range(5)]
    times = [
        Fraction(0),
        tenth,
        Fraction(7, 10),
        Fraction(82, 100),
        Fraction(9, 10),
    ]  # the last two only jitter
    heard, _ = convert(tmp_path / "c.mkv", packets, times)
    assert levels(heard) == [(1, 0.1), (2, 0.1), (0, 0.5), (3, 0.1), (4, 0.1), (5, 0.1)]


def test_what_comes_again_is_not_heard_again(tmp_path, packets):
    times = [Fraction(n, 10) for n in (0, 1, 2, 0, 3)]
    heard, _ = convert(tmp_path / "b.mkv", packets, times)
    assert [level for level, _ in levels(heard)] == [1, 2, 3, 5]


def test_damaged_packets_are_counted_and_silent(tmp_path, write_video):
    source = write_video(tmp_path / "a.mkv", np.zeros((50, 32, 48, 3), np.uint8), has_audio=True)
    with media.open_to_read(source) as container:
        stream = container.streams.audio[0]
        found = [packet for packet in container.demux(stream) if packet.size]
        for n in (10, 11, 12):
            packet = av.Packet(b"\xff" * 64)
            packet.stream, packet.pts, packet.time_base = stream, found[n].pts, found[n].time_base
            found[n] = packet
        times = [packet.pts * packet.time_base for packet in found]
        heard, converter = convert(tmp_path / "b.mkv", found, times)
    assert converter.damaged >= 1 and abs(len(heard) / RATE - 2) < 0.1
    assert np.abs(heard[RATE // 2 : int(0.6 * RATE)]).max() > 1000  # before the hole
    assert np.abs(heard[int(0.70 * RATE) : int(0.76 * RATE)]).max() < 2000
    assert np.abs(heard[RATE : 2 * RATE]).max() > 1000


@pytest.mark.parametrize(
    ("channels", "name"), [(1, "mono"), (2, "stereo"), (6, "5.1"), (8, "7.1"), (5, "5.0"), (9, None)]
)
def test_layouts_without_a_name_get_the_usual_one(channels, name):
    class Unnamed:
        nb_channels = channels
        name = f"{channels} channels"

    if name:
        assert sound_converter.named_layout(Unnamed) == name
        assert av.AudioLayout(name).nb_channels == channels
    else:
        with pytest.raises(ValueError, match="9 channels"):
            sound_converter.named_layout(Unnamed)
    assert sound_converter.named_layout(av.AudioLayout("5.1(side)")) == "5.1(side)"


@pytest.mark.parametrize(
    ("codec", "rate", "expected"), [("aac", 44100, 44100), ("aac", 192000, 48000), ("libopus", 44100, 48000)]
)
def test_rates_that_an_encoder_lacks_become_a_usual_one(tmp_path, codec, rate, expected):
    with media.open_to_write(tmp_path / "a.mkv") as output:
        stream = sound_converter.add_stream(output, codec, rate=rate, layout="stereo")
        assert stream.codec_context.sample_rate == expected


@pytest.mark.parametrize(
    ("codec", "layout"),
    [
        (codec, layout)
        for codec in ("aac", "libopus", "ac3", "flac", "pcm_s16le")
        for layout in ("mono", "stereo", "5.1", "7.1")
        if (codec, layout) != ("ac3", "7.1")  # it has six channels at most
    ],
)
def test_silence_fills_every_channel_of_every_format(tmp_path, write_sound, codec, layout):
    source = write_sound(tmp_path / "a.mkv", codec="flac", layout=layout)
    with media.open_to_read(source) as given, media.open_to_write(tmp_path / "b.mkv") as output:
        stream = sound_converter.add_stream(output, codec, rate=48000, layout=layout)
        output.start_encoding()
        converter = sound_converter.SoundConverter(stream.codec_context)
        made = []
        for packet in given.demux(audio=0):
            if packet.size:
                time = packet.pts * packet.time_base
                made += converter.convert(packet, time + (3 if time > Fraction(1, 2) else 0))
        for packet in [*made, *converter.flush()]:
            packet.stream = stream
            output.mux_one(packet)
    with media.open_to_read(tmp_path / "b.mkv") as container:
        to_16_bits = av.AudioResampler("s16", container.streams.audio[0].layout, 48000)  # interleaved
        frames = [piece for frame in container.decode(audio=0) for piece in to_16_bits.resample(frame)]
        heard = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(int)
        heard = np.abs(heard.reshape(-1, container.streams.audio[0].layout.nb_channels))
    assert len(heard) / 48000 == pytest.approx(4, abs=0.1)
    assert heard[48000 : 3 * 48000].max() < 300 and heard[: 48000 // 2].max() > 3000
