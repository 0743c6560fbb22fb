"""Sound and subtitles carried over."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.video import media
from stvsr_jax.video.encoding import VideoFormat
from stvsr_jax.video.output_file import OutputFile
from stvsr_jax.video.writers import VideoWriter


def packets(path, kind):
    """[(time in seconds, bytes)] of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def copy(source, target, count, *, origin=Fraction(0), end=None, codec="h264"):
    video = VideoFormat(64, 96, rate=Fraction(25), time_base=Fraction(1, 25), codec=codec)
    file = OutputFile(target, video, source=source, origin=origin, end=end)
    work = target.with_name(f"{target.name}.work")
    work.mkdir()
    writer = VideoWriter(file, work / "0.packets")
    for i in range(count):
        writer.write(
            writer.prepare(np.full((64, 96, 3), 5 * i, np.uint8), i), Fraction(i, 25), Fraction(1, 25)
        )
    writer.store(writer.cut())
    return [*file.notes, *writer.finish()]


def test_sound_is_copied_byte_for_byte(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", np.zeros((25, 32, 48, 3), np.uint8), has_audio=True)
    for name in ("b.mp4", "b.mkv"):
        assert copy(source, tmp_path / name, 25) == []
        before, after = packets(source, "audio"), packets(tmp_path / name, "audio")
        if name == "b.mkv":  # the encoder's lead-in, which MP4 hides, would be heard
            before = before[1:]
        assert [data for _, data in after] == [data for _, data in before] and len(after) > 10
        assert max(abs(b - a) for (a, _), (b, _) in zip(before, after, strict=True)) < 0.001


def cut_by_an_edit_list(source, target, start, end):
    """Copies a file whose edit list shows only what is between two times, by rewriting that list."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        targets = [container.add_stream_from_template(stream) for stream in given.streams]
        for packet in given.demux():
            if packet.size:
                back = round(start / packet.time_base)
                packet.pts, packet.dts = packet.pts - back, packet.dts - back
                packet.stream = targets[packet.stream_index]
                container.mux(packet)
    data = bytearray(target.read_bytes())
    place = 0
    while (
        place := data.find(b"elst", place + 1)
    ) > 0:  # version 0: flags, number of edits, length of the first
        data[place + 12 : place + 16] = round((end - start) * 1000).to_bytes(4, "big")
    target.write_bytes(data)


def test_sound_that_the_input_hides_stays_hidden(tmp_path, write_video):
    whole = write_video(tmp_path / "a.mp4", np.zeros((50, 32, 48, 3), np.uint8), has_audio=True)
    cut_by_an_edit_list(whole, tmp_path / "cut.mp4", Fraction(1, 2), Fraction(3, 2))
    for name in ("b.mp4", "b.mkv"):
        copy(tmp_path / "cut.mp4", tmp_path / name, 25)
        with av.open(str(tmp_path / name)) as container:
            heard = [frame.time for frame in container.decode(audio=0)]
        assert -0.001 < min(heard) < 0.07 and max(heard) == pytest.approx(1, abs=0.14)
        with av.open(str(tmp_path / name)) as container:
            assert next(container.decode(video=0)).time == pytest.approx(0, abs=0.06)


def test_trimmed_output_ends_the_sound_with_the_picture(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", np.zeros((50, 32, 48, 3), np.uint8), has_audio=True)
    copy(source, tmp_path / "b.mp4", 10, end=Fraction(10, 25))
    assert 0.25 < float(packets(tmp_path / "b.mp4", "audio")[-1][0]) < 0.4


def test_clock_of_the_input_is_moved_to_zero(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", np.zeros((25, 32, 48, 3), np.uint8), has_audio=True)
    copy(source, tmp_path / "b.mp4", 25, origin=Fraction(-1, 4))
    # The encoder's lead-in stays hidden.
    assert packets(tmp_path / "b.mp4", "audio")[0][0] == packets(source, "audio")[1][0] + Fraction(1, 4)


def test_sound_that_does_not_fit_is_converted(tmp_path, write_video):
    plain = write_video(tmp_path / "a.mp4", np.zeros((25, 32, 48, 3), np.uint8), codec="mpeg4")
    source = tmp_path / "a.avi"
    tone = (8000 * np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000)).astype(np.int16)
    with av.open(str(plain)) as video, av.open(str(source), "w") as container:
        picture = container.add_stream_from_template(video.streams.video[0])
        sound = container.add_stream("wmav2", rate=16000)
        sound.layout, sound.bit_rate = "mono", 64000
        for packet in video.demux(video.streams.video[0]):
            if packet.size:
                packet.stream = picture
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    notes = copy(source, tmp_path / "b.mp4", 25)
    assert len(notes) == 1 and "wmav2" in notes[0] and "converted to aac" in notes[0]
    with av.open(str(tmp_path / "b.mp4")) as container:
        heard = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(heard[4000:12000]))
    assert abs(len(heard) / 16000 - 1) < 0.2 and abs(int(spectrum.argmax()) * 2 - 440) <= 2


def test_subtitles_are_copied_or_named(tmp_path, write_video):
    text = tmp_path / "a.srt"
    text.write_text("1\n00:00:00,200 --> 00:00:00,600\nHello\n")
    plain = write_video(tmp_path / "a.mp4", np.zeros((25, 32, 48, 3), np.uint8))
    source = tmp_path / "a.mkv"
    with av.open(str(plain)) as video, av.open(str(text)) as words, av.open(str(source), "w") as container:
        targets = [container.add_stream_from_template(c.streams[0]) for c in (video, words)]
        for target, packet in [(targets[0], p) for p in video.demux() if p.size] + [
            (targets[1], p) for p in words.demux() if p.size
        ]:
            packet.stream = target
            container.mux(packet)
    assert copy(source, tmp_path / "b.mkv", 25) == []
    assert packets(tmp_path / "b.mkv", "subtitle") == packets(source, "subtitle")
    notes = copy(source, tmp_path / "b.mp4", 25)
    assert len(notes) == 1 and "subtitle" in notes[0] and "left out" in notes[0]


def test_chapters_are_copied_unless_the_output_is_trimmed(tmp_path, write_video):
    plain = write_video(tmp_path / "a.mp4", np.zeros((25, 32, 48, 3), np.uint8), has_audio=True)
    source = tmp_path / "a.mkv"
    chapters = [
        {
            "id": n,
            "start": 500 * n,
            "end": 500 * n + 500,
            "time_base": Fraction(1, 1000),
            "metadata": {"title": t},
        }
        for n, t in enumerate(("one", "two"))
    ]
    with av.open(str(plain)) as given, av.open(str(source), "w") as container:
        targets = [container.add_stream_from_template(stream) for stream in given.streams]
        container.set_chapters(chapters)
        for packet in given.demux():
            if packet.size:
                packet.stream = targets[packet.stream_index]
                container.mux(packet)
    for name, is_trimmed in (("b.mkv", False), ("b.mp4", False), ("c.mkv", True)):
        copy(source, tmp_path / name, 25, end=Fraction(1) if is_trimmed else None)
        with av.open(str(tmp_path / name)) as container:
            found = [
                (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"])
                for c in container.chapters()
            ]
        half = Fraction(1, 2)
        assert found == ([] if is_trimmed else [("one", 0, half), ("two", half, 1)])


def hear(path):
    """Returns (codec, layout, loudest frequency, seconds) of the first sound of a file."""
    with media.open_to_read(path) as container:
        context = container.streams.audio[0].codec_context
        frames = list(container.decode(audio=0))
        rate, name = context.sample_rate, context.codec.canonical_name
        mono = [f.to_ndarray()[0][:: f.layout.nb_channels if not f.format.is_planar else 1] for f in frames]
        heard = np.concatenate(mono).astype(float)
    spectrum = np.abs(np.fft.rfft(heard[rate // 4 : rate // 4 + rate // 2]))
    return name, context.layout.nb_channels, int(spectrum.argmax()) * 2, len(heard) / rate


@pytest.mark.parametrize(
    ("source", "codec", "layout", "target", "expected"),
    [
        # Channels without a layout get the usual one where the container wants to know.
        ("a.avi", "pcm_s16le", "stereo", "b.mp4", "pcm_s16le"),
        ("a.mkv", "pcm_s16le", "5.1", "b.mp4", "pcm_s16le"),
        ("a.mkv", "pcm_s24le", "7.1", "b.mp4", "pcm_s24le"),
        ("a.mkv", "pcm_s16le", "stereo", "b.mov", "pcm_s16le"),
        ("a.mkv", "flac", "stereo", "b.mp4", "flac"),
        ("a.mkv", "libopus", "stereo", "b.mp4", "opus"),
        # What the header refuses.
        ("a.mkv", "flac", "stereo", "b.mov", "aac"),
        ("a.mkv", "libopus", "5.1", "b.mov", "aac"),
        ("a.wmv", "wmav2", "stereo", "b.mp4", "aac"),
        ("a.mkv", "tta", "stereo", "b.mov", "aac"),
        # What goes in and is not found again.
        ("a.mkv", "pcm_s16le", "stereo", "b.ts", "aac"),
        ("a.mkv", "flac", "stereo", "b.ts", "aac"),
        ("a.mkv", "pcm_s16le", "stereo", "b.webm", "opus"),
        ("a.mkv", "flac", "stereo", "b.avi", "flac"),
        ("a.mkv", "ac3", "5.1", "b.mp4", "ac3"),
        ("a.mkv", "ac3", "5.1", "b.ts", "ac3"),
    ],
)
def test_every_sound_is_in_every_output(tmp_path, write_sound, source, codec, layout, target, expected):
    write_sound(tmp_path / source, codec=codec, layout=layout)
    video_codec = "av1" if target.endswith("webm") else "h264"
    notes = copy(tmp_path / source, tmp_path / target, 25, codec=video_codec)
    is_copied = expected in codec
    assert len(notes) == (0 if is_copied else 1)
    if not is_copied:
        assert "audio stream 1" in notes[0] and f"converted to {expected}" in notes[0]
    name, channels, frequency, seconds = hear(tmp_path / target)
    assert name == expected and channels == {"stereo": 2, "5.1": 6, "7.1": 8}[layout]
    assert frequency == 440 and abs(seconds - 1) < 0.06


def test_sound_of_channels_that_no_layout_has_is_mixed_or_left_out(tmp_path, write_sound):
    write_sound(tmp_path / "a.mkv", codec="pcm_s16le", layout="hexadecagonal")
    notes = copy(tmp_path / "a.mkv", tmp_path / "b.ts", 25)
    assert len(notes) == 1 and ("converted to aac, stereo" in notes[0] or "left out" in notes[0])
    assert len(packets(tmp_path / "b.ts", "video")) == 25


def test_packets_that_the_container_refuses_are_left_out(tmp_path, write_sound):
    def break_headers(found):
        found[9] = av.Packet(
            b"\xff\xf1\0\0\0\0\0\0" + bytes(found[9])[8:]
        )  # of an ADTS header its start alone
        found[9].pts = found[9].dts = found[8].pts + 1024
        found[9].time_base = found[8].time_base
        return found

    source = write_sound(tmp_path / "a.ts", edit=break_headers)
    damaged = bytearray(source.read_bytes())
    source.write_bytes(damaged)
    for name in ("b.mp4", "b.mkv"):
        notes = copy(source, tmp_path / name, 25)
        assert len(packets(tmp_path / name, "audio")) >= 40 and len(packets(tmp_path / name, "video")) == 25
        assert all("damaged packets of audio stream 1 (aac)" in note for note in notes)


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.mov", "b.ts"])
def test_sound_whose_times_do_not_rise_rises(tmp_path, write_sound, name):
    def fall(found):
        found[8].pts = found[8].dts = found[7].pts
        return found

    source = write_sound(tmp_path / "a.mkv", edit=fall)
    assert copy(source, tmp_path / name, 25) == []
    times = [time for time, _ in packets(tmp_path / name, "audio")]
    expected = [n * 1024 / 48000 for n in range(len(times))]
    assert [float(time - times[0]) for time in times] == pytest.approx(expected, abs=2e-3)


def test_sound_that_starts_again_goes_on(tmp_path, write_sound):
    part = write_sound(tmp_path / "part.ts").read_bytes()
    source = tmp_path / "a.ts"
    source.write_bytes(part + part)
    with media.open_to_read(source) as container:
        origin = container.start_time / Fraction(av.time_base)
    for name in ("b.mp4", "b.mkv", "b.ts"):
        assert copy(source, tmp_path / name, 50, origin=origin) == []
        times = [float(time) for time, _ in packets(tmp_path / name, "audio")]
        assert (np.diff(times) > 0).all() and np.diff(times).max() < 0.1
        assert abs(times[-1] - times[0] - 2) < 0.1 and hear(tmp_path / name)[2] == 440


def test_a_stream_with_nothing_in_the_range_is_left_out(tmp_path, write_sound):
    def late(found):
        for packet in found:
            packet.pts = packet.dts = packet.pts + 48000 * 5
        return found

    source = write_sound(tmp_path / "a.mkv", codec="ac3", edit=late)
    notes = copy(source, tmp_path / "b.mp4", 10, end=Fraction(10, 25))
    assert len(notes) == 1 and "audio stream 1 (ac3)" in notes[0] and "nothing" in notes[0]
    assert copy(source, tmp_path / "c.mp4", 25) == []  # AC-3 in MP4 needs a packet before its trailer
    assert packets(tmp_path / "c.mp4", "audio")[0][0] > 4
