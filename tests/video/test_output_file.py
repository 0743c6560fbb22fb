"""Files made of packets, and what happens when a container refuses them at the end."""

import errno
from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.video import media, remux
from stvsr_jax.video.encoding import VideoFormat
from stvsr_jax.video.output_file import OutputFile
from stvsr_jax.video.writers import VideoWriter

FORMAT = VideoFormat(64, 96, rate=Fraction(25), time_base=Fraction(1, 25))


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def finish(file, work):
    """Writes 25 frames and returns the notes."""
    writer = VideoWriter(file, work / "0.packets")
    for n in range(25):
        writer.write(
            writer.prepare(np.full((64, 96, 3), 4 * n, np.uint8), n), Fraction(n, 25), Fraction(1, 25)
        )
    writer.store(writer.cut())
    return writer.finish()


def count_packets(path):
    with media.open_to_read(path) as container:
        kinds = [stream.type for stream in container.streams]
        found = [packet.stream_index for packet in container.demux() if packet.size]
    return {kind: found.count(n) for n, kind in enumerate(kinds)}


def refuse(monkeypatch, *, names, error, is_picture=False):
    """Makes containers with one of these names refuse everything once the rehearsals are over."""
    write = OutputFile._write

    def fail(self, target, packets, treatments, *, packet_limit=None):
        if target.name in names and packet_limit is None and (treatments or is_picture):
            raise error
        return write(self, target, packets, treatments, packet_limit=packet_limit)

    monkeypatch.setattr(OutputFile, "_write", fail)


REFUSAL = av.error.ArgumentError(errno.EINVAL, "Invalid argument", "/scratch/whole.mp4")


def test_a_container_that_refuses_at_the_end_becomes_matroska(tmp_path, work, write_sound, monkeypatch):
    source = write_sound(tmp_path / "a.mkv", codec="pcm_s16le")
    file = OutputFile(tmp_path / "b.mp4", FORMAT, source=source)
    refuse(monkeypatch, names=["whole.mp4"], error=REFUSAL)
    notes = finish(file, work)
    assert notes == [f"b.mp4 cannot be written (Invalid argument): the result is {tmp_path / 'b.mkv'}"]
    assert not (tmp_path / "b.mp4").exists() and not list(work.glob("whole*"))
    found = count_packets(tmp_path / "b.mkv")
    assert found["video"] == 25 and found["audio"] > 10


def test_no_other_file_is_replaced_by_matroska(tmp_path, work, write_sound, monkeypatch):
    (tmp_path / "b.mkv").write_text("mine")
    file = OutputFile(tmp_path / "b.mp4", FORMAT, source=write_sound(tmp_path / "a.mkv"))
    refuse(monkeypatch, names=["whole.mp4"], error=REFUSAL)
    notes = finish(file, work)
    assert (tmp_path / "b.mkv").read_text() == "mine" and "b.mp4.mkv" in notes[0]
    assert count_packets(tmp_path / "b.mp4.mkv")["video"] == 25


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_the_picture_is_delivered_without_sound_if_nothing_else_works(
    tmp_path, work, write_sound, monkeypatch, name
):
    file = OutputFile(tmp_path / name, FORMAT, source=write_sound(tmp_path / "a.mkv"))
    refuse(monkeypatch, names=["whole.mp4", "whole.mkv"], error=REFUSAL)
    notes = finish(file, work)
    assert len(notes) == 2 and notes[1] == "sound and subtitles are left out (Invalid argument)"
    assert count_packets(tmp_path / "b.mkv") == {"video": 25}


def test_a_full_disk_is_no_refusal(tmp_path, work, write_sound, monkeypatch):
    file = OutputFile(tmp_path / "b.mp4", FORMAT, source=write_sound(tmp_path / "a.mkv"))
    full = av.error.FFmpegError(errno.ENOSPC, "No space left on device")
    refuse(monkeypatch, names=["whole.mp4"], error=full)
    with pytest.raises(av.FFmpegError, match="No space left"):
        finish(file, work)
    assert remux.is_of_the_machine(full) and sorted(f.name for f in tmp_path.iterdir()) == ["a.mkv", "work"]


def test_a_partial_file_that_is_refused_leaves_the_work(tmp_path, work, write_sound, monkeypatch):
    file = OutputFile(tmp_path / "b.mp4", FORMAT, source=write_sound(tmp_path / "a.mkv"))
    refuse(monkeypatch, names=["b.partial.mp4"], error=REFUSAL)
    writer = VideoWriter(file, work / "0.packets")
    writer.write(writer.prepare(np.zeros((64, 96, 3), np.uint8), 0), Fraction(0), Fraction(1, 25))
    writer.store(writer.cut())
    assert writer.finish_partial() == work


def test_the_codec_is_blamed_for_nothing_but_the_picture(tmp_path, write_sound, monkeypatch):
    source = write_sound(tmp_path / "a.mkv")
    with pytest.raises(ValueError, match="b.webm cannot be written with codec h264: ") as caught:
        OutputFile(tmp_path / "b.webm", FORMAT, source=source)
    assert "/trial" not in str(caught.value)

    def refuse_all(*args, **kwargs):
        raise ValueError("no")

    monkeypatch.setattr(remux, "_copy_stream", refuse_all)
    monkeypatch.setattr(remux.sound_converter, "add_stream", refuse_all)
    file = OutputFile(tmp_path / "b.mp4", FORMAT, source=source)
    assert file.notes == ["audio stream 1 (aac) does not fit mp4 and is left out (no)"]


def test_chapters_are_counted_from_the_beginning(tmp_path, work, write_sound):
    plain, source = write_sound(tmp_path / "a.mkv"), tmp_path / "b.mkv"
    second = Fraction(1, 1000)
    chapters = [{"id": 0, "start": 200, "end": 900, "time_base": second, "metadata": {"title": "Café"}}]
    with media.open_to_read(plain) as given, media.open_to_write(source) as output:
        targets = [output.add_stream_from_template(stream) for stream in given.streams]
        output.set_chapters(chapters)
        for packet in given.demux():
            if packet.size:
                packet.stream = targets[packet.stream_index]
                output.mux(packet)
    assert finish(OutputFile(tmp_path / "c.mkv", FORMAT, source=source, origin=Fraction(1, 2)), work) == []
    with media.open_to_read(tmp_path / "c.mkv") as container:
        (chapter,) = container.chapters()
    assert [chapter[end] * chapter["time_base"] for end in ("start", "end")] == [0, Fraction(2, 5)]
    assert chapter["metadata"]["title"] == "Café"


@pytest.mark.parametrize(
    ("name", "codec", "is_constant", "is_noted"),
    [
        ("a.avi", "h264", False, True),
        ("a.avi", "h264", True, False),
        ("a.avi", "ffv1", False, False),
        ("a.mkv", "h264", False, False),
    ],
)
def test_an_avi_of_varying_rate_is_noted_where_ffmpeg_shows_it_late(
    tmp_path, name, codec, is_constant, is_noted
):
    base = Fraction(1, 25) if is_constant else Fraction(1, 600)
    file = OutputFile(tmp_path / name, VideoFormat(64, 96, rate=Fraction(25), time_base=base, codec=codec))
    assert ["a frame late" in note for note in file.notes] == [True] * is_noted
