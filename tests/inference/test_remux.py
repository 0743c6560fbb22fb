"""Sound and subtitles carried over."""

from fractions import Fraction

import av
import numpy as np

from stvsr_jax.inference.video_encoder import VideoFormat
from stvsr_jax.inference.video_writer import VideoFile, VideoWriter


def packets(path, kind):
    """[(time in seconds, bytes)] of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def copy(source, target, count, *, origin=Fraction(0), is_trimmed=False):
    video = VideoFormat(32, 48, rate=Fraction(25), time_base=Fraction(1, 25))
    file = VideoFile(target, video, source=source, origin=origin, is_trimmed=is_trimmed)
    work = target.with_name(f"{target.name}.work")
    work.mkdir()
    writer = VideoWriter(file, work / "0.packets")
    for i in range(count):
        writer.write(np.full((32, 48, 3), 10 * i, np.uint8), Fraction(i, 25), Fraction(1, 25))
    writer.finish()
    return file.notes


def test_sound_is_copied_byte_for_byte(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", np.zeros((25, 32, 48, 3), np.uint8), has_audio=True)
    for name in ("b.mp4", "b.mkv"):
        assert copy(source, tmp_path / name, 25) == []
        before, after = packets(source, "audio"), packets(tmp_path / name, "audio")
        assert [data for _, data in after] == [data for _, data in before] and len(after) > 10
        shifts = [float(b - a) for (a, _), (b, _) in zip(before, after, strict=True)]
        # Matroska has no times before 0, so it moves sound and picture together by the encoder's priming.
        assert max(shifts) - min(shifts) < 0.002 and abs(shifts[0]) < (0.001 if name == "b.mp4" else 0.07)


def test_trimmed_output_ends_the_sound_with_the_picture(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", np.zeros((50, 32, 48, 3), np.uint8), has_audio=True)
    copy(source, tmp_path / "b.mp4", 10, is_trimmed=True)
    assert 0.25 < float(packets(tmp_path / "b.mp4", "audio")[-1][0]) < 0.4


def test_clock_of_the_input_is_moved_to_zero(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", np.zeros((25, 32, 48, 3), np.uint8), has_audio=True)
    copy(source, tmp_path / "b.mp4", 25, origin=Fraction(-1, 4))
    assert packets(tmp_path / "b.mp4", "audio")[0][0] == packets(source, "audio")[0][0] + Fraction(1, 4)


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
        copy(source, tmp_path / name, 25, is_trimmed=is_trimmed)
        with av.open(str(tmp_path / name)) as container:
            found = [
                (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"])
                for c in container.chapters()
            ]
        half = Fraction(1, 2)
        assert found == ([] if is_trimmed else [("one", 0, half), ("two", half, 1)])
