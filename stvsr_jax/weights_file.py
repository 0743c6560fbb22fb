"""Recognises files that are no weights though they are named so: what a download leaves when it goes wrong."""

import pathlib
import zipfile

_HEAD = 1024
# First bytes -> what the file is; for files whose name promises weights.
_MISTAKES = {
    b"version https://git-lfs": "is a git-LFS pointer, not the weights it stands for; run: git lfs pull",
    b"\x1f\x8b": "is a gzip archive; unpack it and name the file of weights in it",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; unpack it and name the file of weights in it",
    b"Rar!": "is a RAR archive; unpack it and name the file of weights in it",
    b"\x89HDF\r\n": "is an HDF5 file, of Keras perhaps; the weights of the published PyTorch networks are needed",
    b"%PDF": "is a PDF",
}
_HTML = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")
_ZIPPED = {".npz": ".npy", ".pth": "data.pkl", ".pt": "data.pkl", ".ckpt": "data.pkl", ".bin": "data.pkl"}


def describe(path: pathlib.Path) -> str | None:
    """Returns what a file that is no weights is ('is ...'), or None if it may be damaged weights."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "is empty (zero bytes)"
    if not any(head):
        return "begins with nothing but zero bytes"
    for start, what in _MISTAKES.items():
        if head.startswith(start):
            return what
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_HTML):
        return "is a web page, not weights; open its address in a browser and save what that offers"
    if zipfile.is_zipfile(path):
        return _describe_zip(path)
    if _is_text(head):
        return (
            f"is a text, not weights; it begins with {head[:40].decode(errors='replace').split(chr(10))[0]!r}"
        )
    return None


def _describe_zip(path):
    """Returns what a zip archive is unless it is one of the kind that the suffix promises."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("constants.pkl") for name in names):
        return "is a TorchScript program; its state dict is needed"
    wanted = _ZIPPED.get(path.suffix.lower())
    if wanted and any(name.endswith(wanted) for name in names):
        return None
    for suffix in (".npz", ".pth"):
        if names and any(name.endswith(_ZIPPED[suffix]) for name in names):
            return f"is a {suffix} file under another name; rename it"
    return f"is a zip archive of {', '.join(names[:3]) or 'nothing'}; unpack it and name the file of weights in it"


def _is_text(head):
    """Whether all bytes are printable ASCII: no kind of weights begins with so many."""
    return len(head) > 8 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
