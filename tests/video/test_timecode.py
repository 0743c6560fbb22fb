"""Time codes written out by hand."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.inference import job, request
from stvsr_jax.video import sequential_reader
from stvsr_jax.video.timecode import rescale
from stvsr_jax.video.writers import VideoWriter

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("text", "rate", "out_rate", "expected"),
    [
        ("01:00:00:10", Fraction(25), Fraction(25), "01:00:00:10"),
        ("01:00:00:10", Fraction(25), Fraction(50), "01:00:00:20"),
        ("23:59:59:24", Fraction(25), Fraction(100), "23:59:59:96"),
        ("10:20:30:23", Fraction(24000, 1001), Fraction(60), "10:20:30:57"),
        ("00:01:00;02", NTSC, 2 * NTSC, "00:01:00;04"),
        ("00:01:00;02", NTSC, Fraction(60), None),  # no numbers are dropped at 60
        ("00:01:00.02", NTSC, Fraction(50), None),
        ("00:01:00:30", NTSC, 2 * NTSC, None),
        ("00:61:00:00", Fraction(25), Fraction(50), None),
        ("yesterday", Fraction(25), Fraction(50), None),
        ("01:00:00:10", Fraction(25), Fraction(300), None),
    ],
)
def test_the_instant_stays(text, rate, out_rate, expected):
    assert rescale(text, rate, out_rate) == expected


def write(path, rate, text):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.metadata["timecode"] = text
        for i in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 50 * i, np.uint8), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make(source, target, **kwargs):
    """Writes an output of flat frames; returns its plan and the notes."""
    plan = request.make_plan(request.Request(source, target, **kwargs), "videoinr")
    (file,) = job.open_files(plan)
    work = target.with_name(f"{target.name}.work")
    work.mkdir()
    writer = VideoWriter(file, work / "0.packets")
    for i in range(8):
        writer.write(
            writer.prepare(np.full((*plan.out_size, 3), 9 * i, np.uint8), i),
            i / plan.video.rate,
            1 / plan.video.rate,
        )
    writer.store(writer.cut())
    return plan, [*plan.remarks, *file.notes, *writer.finish()]


@pytest.mark.parametrize("name", ["a.mov", "a.mp4", "a.mkv"])
@pytest.mark.parametrize("target", ["b.mov", "b.mp4", "b.mkv"])
def test_time_codes_are_carried_at_the_new_rate(tmp_path, name, target):
    source = write(tmp_path / name, NTSC, "00:01:00;02")
    assert sequential_reader.probe(source).timecode == "00:01:00;02"
    _, notes = make(source, tmp_path / target, space=2, time=2)
    assert notes == []
    info = sequential_reader.probe(tmp_path / target)
    assert info.timecode == "00:01:00;04" and "timecode" not in map(str.lower, info.metadata)


def test_time_codes_that_cannot_be_carried_are_named(tmp_path):
    source = write(tmp_path / "a.mov", NTSC, "00:01:00;02")
    for target, options in (("b.mov", {"fps": Fraction(60)}), ("b.ts", {}), ("b.avi", {})):
        _, notes = make(source, tmp_path / target, space=2, **options)
        assert len([note for note in notes if "time code" in note and "left out" in note]) == 1, (
            target,
            notes,
        )
        assert sequential_reader.probe(tmp_path / target).timecode == ""
    plan = request.make_plan(request.Request(source, tmp_path / "pictures", space=2), "videoinr")
    assert any("time code 00:01:00;02 is left out" in remark for remark in plan.remarks)
