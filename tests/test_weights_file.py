"""What a download leaves instead of weights is recognised by its content."""

import io
import zipfile

import numpy as np
import pytest

from stvsr_jax import convert, weights_file


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2))
    return buffer.getvalue()


CASES = [
    ("w.pth", b"", "is empty (zero bytes)"),
    ("w.pth", bytes(5000), "nothing but zero bytes"),
    (
        "w.pth",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 44\n",
        "is a git-LFS pointer",
    ),
    ("w.pth", b"<!DOCTYPE html><html><head><title>Google Drive", "is a web page"),
    ("w.pt", b"\xef\xbb\xbf \r\n<HTML lang=en>", "is a web page"),
    ("w.bin", b'<?xml version="1.0"?><Error><Code>AccessDenied', "is a web page"),
    ("w.ckpt", b'{"message": "Not Found"}', "is a text, not weights; it begins with '{"),
    ("w.npz", b"not weights at all\nreally", "begins with 'not weights at all'"),
    ("w.pth", b"\x1f\x8b\x08\x00rest", "is a gzip archive"),
    (
        "w.pth",
        zipped("weights/a.pth", "readme.txt"),
        "is a zip archive of weights/a.pth, readme.txt; unpack it",
    ),
    ("w.pth", zipped(), "is a zip archive of nothing"),
    ("w.pth", zipped("net/data.pkl", "net/constants.pkl", "net/code/a.py"), "is a TorchScript program"),
    ("w.pth", npz(), "is a .npz file under another name"),
    ("w.npz", zipped("archive/data.pkl"), "is a .pth file under another name"),
    ("w.safetensors", zipped("archive/data.pkl"), "is a .pth file under another name"),
]


@pytest.mark.parametrize(("name", "content", "message"), CASES)
def test_what_is_no_weights_is_described(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in weights_file.describe(tmp_path / name)


@pytest.mark.parametrize(("name", "content", "message"), CASES)
def test_convert_says_it_in_one_line(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert convert.main([str(tmp_path / name), str(tmp_path / "out"), "--model", "videoinr"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / name} cannot be read: it ") and message in line


@pytest.mark.parametrize(
    ("name", "content"),
    [("w.npz", npz()), ("w.pth", zipped("archive/data.pkl")), ("w.pth", b"\x80\x02}q\x00")],
)
def test_what_may_be_weights_is_left_to_the_reader(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert weights_file.describe(tmp_path / name) is None
