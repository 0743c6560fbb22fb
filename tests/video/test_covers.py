"""Cover pictures, from file to file."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.video import covers
from stvsr_jax.video.encoding import VideoFormat
from stvsr_jax.video.output_file import OutputFile
from stvsr_jax.video.writers import VideoWriter

SIZE = (48, 64)


def frame(tone, size, number=0):
    made = av.VideoFrame.from_ndarray(np.full((*size, 3), tone, np.uint8), format="rgb24")
    made.pts = number
    return made


def write(path, codec="mjpeg", pixel_format="yuvj420p", count=1):
    """Writes a video with cover pictures and returns these."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        (video.height, video.width), video.pix_fmt = SIZE, "yuv420p"
        stills = []
        for i in range(count):
            still = container.add_stream(codec, rate=1)
            still.height, still.width, still.pix_fmt = 80, 120, pixel_format
            still.disposition = av.stream.Disposition.attached_pic
            stills += still.encode(frame(90 + i, (80, 120))) + still.encode(None)
        data = [bytes(packet) for packet in stills]
        container.mux(stills)
        for i in range(5):
            container.mux(video.encode(frame(20 * i, SIZE, i)))
        container.mux(video.encode(None))
    return data


def carry(source, target):
    """Makes an output with the source's covers and returns its notes."""
    video = VideoFormat(*SIZE, rate=Fraction(25), time_base=Fraction(1, 25))
    file = OutputFile(target, video, source=source)
    work = target.with_name("work")
    work.mkdir()
    writer = VideoWriter(file, work / "0.packets")
    for i in range(5):
        writer.write(
            writer.prepare(np.full((*SIZE, 3), 20 * i, np.uint8), i), Fraction(i, 25), Fraction(1, 25)
        )
    writer.store(writer.cut())
    return [*file.notes, *writer.finish()]


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
@pytest.mark.parametrize(
    ("codec", "pixel_format", "count"),
    [("mjpeg", "yuvj420p", 1), ("png", "rgb24", 1), ("mjpeg", "yuvj420p", 2)],
)
def test_covers_are_carried(tmp_path, name, codec, pixel_format, count):
    source, target = tmp_path / "a.mp4", tmp_path / name
    data = write(source, codec, pixel_format, count)
    assert [cover.data for cover in covers.read_covers(source)] == data
    assert carry(source, target) == []
    assert [(cover.codec, cover.data) for cover in covers.read_covers(target)] == [
        (codec, one) for one in data
    ]
    with av.open(str(target)) as container:
        video = next(stream for stream in container.streams.video if stream.codec_context.name == "h264")
        assert len(list(container.decode(video))) == 5


@pytest.mark.parametrize("name", ["b.avi", "b.ts", "b.mov"])
def test_covers_that_do_not_fit_are_named(tmp_path, name):
    source, target = tmp_path / "a.mp4", tmp_path / name
    write(source)
    notes = carry(source, target)
    assert len(notes) == 1 and notes[0].startswith("cover picture (stream 1, mjpeg) does not fit")
    with av.open(str(target)) as container:
        assert len(container.streams.video) == 1


def test_most_files_have_none(tmp_path):
    write(tmp_path / "a.mp4", count=0)
    assert covers.read_covers(tmp_path / "a.mp4") == [] and covers.count_covers(tmp_path / "a.mp4") == 0
