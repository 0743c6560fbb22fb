"""Files joined byte by byte, of which FFmpeg reads only the beginning."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.inference import request
from stvsr_jax.video import joined_files, sequential_reader


def write(path, codec, count=12):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for n in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + n, np.uint8), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "read"),
    [
        ("mkv", "libx264", 2),
        ("webm", "libvpx-vp9", 2),
        ("flv", "flv", 1),
        ("flv", "libx264", 1),
        ("mp4", "libx264", 1),
        ("mov", "mpeg4", 1),
        ("wmv", "wmv2", 1),
        ("avi", "mpeg4", 3),
        ("ts", "libx264", 3),
        ("mpg", "mpeg1video", 3),
    ],
)
def test_what_is_not_read_of_joined_files_is_noted(tmp_path, suffix, codec, read):
    one = write(tmp_path / f"one.{suffix}", codec)
    assert sequential_reader.probe(one).unread_files == 0
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(3 * one.read_bytes())
    info = sequential_reader.probe(joined)
    assert len(list(sequential_reader.read_frames(info))) == info.frame_count == 12 * read
    assert info.unread_files == 3 - read
    plan = request.make_plan(request.Request(joined, tmp_path / "out.mp4"), "zooming_slowmo")
    notes = [remark for remark in plan.remarks if "put behind another" in remark]
    said = {0: [], 1: ["a file is put"], 2: ["2 files are put"]}[3 - read]
    assert [note[: len(start)] for note, start in zip(notes, said, strict=True)] == said


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_joined_files_that_look_like_one_more_packet_are_noted(tmp_path, codec):
    one = write(tmp_path / "one.ivf", codec)
    assert sequential_reader.probe(one).unread_files == 0
    joined = tmp_path / "joined.ivf"
    joined.write_bytes(3 * one.read_bytes())
    info = sequential_reader.probe(joined)
    assert len(list(sequential_reader.read_frames(info))) == 12
    assert info.unread_files == 2
    plan = request.make_plan(request.Request(joined, tmp_path / "out.mp4"), "zooming_slowmo")
    assert any("2 files are put behind another" in remark for remark in plan.remarks)


def test_headers_count_behind_what_was_read_alone(tmp_path):
    header = b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00"
    path = tmp_path / "a.flv"
    path.write_bytes(header + b"FLV" + header + bytes(100) + header)
    assert joined_files.count_unread(path, "flv", 0, 0) == 2
    assert joined_files.count_unread(path, "flv", 0, 20) == 1
    assert joined_files.count_unread(path, "flv", 0, path.stat().st_size) == 0
    assert joined_files.count_unread(path, "avi", 0, 0) == 0
