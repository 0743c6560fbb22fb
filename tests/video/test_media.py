"""Media files opened by name: nothing but the file, whatever it is called and titled."""

import av
import numpy as np
import pytest
from PIL import Image

from stvsr_jax.video import media


def write(path, title="x", **kwargs):
    with media.open_to_write(path, **kwargs) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        container.metadata["title"] = title
        for n in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 40 * n, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def count(path):
    with media.open_to_read(path) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(
    "name",
    ["12:30.mp4", "Film: 1.mp4", "file:a.mkv", "http:a.mp4", "a%03d.mp4", "-a?b#c.mp4", "x" * 251 + ".mp4"],
)
def test_any_name_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(name)
    assert count(name) == count(tmp_path / name) == 3
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_name_of_any_bytes_is_a_file(tmp_path):
    path = tmp_path / b"caf\xe9.mkv".decode("utf-8", "surrogateescape")
    assert count(write(path)) == 3


@pytest.mark.parametrize(
    ("stored", "title"),
    [("Café".encode("latin-1"), "Café"), ("Café".encode(), "Café"), (b"\x80 5\x81", "€ 5\ufffd")],
)
def test_titles_that_are_not_utf_8_are_windows_1252(tmp_path, stored, title):
    path = write(tmp_path / "a.avi", "T" * len(stored))
    path.write_bytes(path.read_bytes().replace(b"T" * len(stored), stored))
    with media.open_to_read(path) as container:
        assert container.metadata["title"] == title
    write(tmp_path / "b.mp4", title)
    with media.open_to_read(tmp_path / "b.mp4") as container:
        assert container.metadata["title"] == title


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile secret.ts\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_lists_of_other_files_are_not_followed(tmp_path, name, text):
    secret = write(tmp_path / "secret.ts")
    path = tmp_path / name
    path.write_text(text.format(secret=secret))
    with pytest.raises(av.error.InvalidDataError, match="leads to others"):
        media.open_to_read(path)
    with pytest.raises(av.FFmpegError):
        media.open_to_read(path.rename(tmp_path / "b.mp4"))


def test_a_picture_is_no_pattern_of_names(tmp_path):
    for n, name in enumerate(("a%d.png", "a1.png", "a2.png", "a3.png")):
        Image.new("RGB", (16, 16 * (n + 1))).save(tmp_path / name)
    with media.open_to_read(tmp_path / "a%d.png") as container:
        assert [frame.height for frame in container.decode(video=0)] == [16]


def test_what_is_missing_or_no_media_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        media.open_to_read(tmp_path / "none.mp4")
    (tmp_path / "a.mp4").write_bytes(b"\0" * 1000)
    with pytest.raises(av.FFmpegError):
        media.open_to_read(tmp_path / "a.mp4")
