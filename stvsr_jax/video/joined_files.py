"""Files put one behind another (`cat a.mkv b.mkv`) of which FFmpeg reads only the first, or the first two.

Formats that are made to be joined (MPEG) are read to their end; see `timeline` for their timestamps. The others have one
header at the beginning: one that lies behind all that was read begins a file that is not. In IVF FFmpeg takes all that
follows for one more packet, with the header at its beginning.
"""

import mmap
import os
import re

# FFmpeg's name of a format -> what its header looks like.
_HEADERS = {
    "matroska,webm": rb"\x1a\x45\xdf\xa3.{1,40}?\x42\x82.(?:matroska|webm)",
    "flv": rb"FLV\x01[\x00\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00",
    "mov,mp4,m4a,3gp,3g2,mj2": rb"\x00\x00\x00[\x08-\xff]ftyp[ -~]{4}",
    "ivf": rb"DKIF\x00\x00\x20\x00(?:VP80|VP90|AV01)",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
}


def count_unread(path: str | os.PathLike, format_name: str, start: int, end: int) -> int:
    """Returns how many files follow in a file behind what FFmpeg reads.

    Args:
      path: of the file.
      format_name: FFmpeg's name of its format.
      start, end: of the last packet that was read, in bytes.
    """
    header = _HEADERS.get(format_name)
    if format_name == "ivf":  # that packet may be what follows
        end = start
    if header is None or end >= os.path.getsize(path):
        return 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return sum(1 for _ in re.compile(header, re.DOTALL).finditer(data, max(1, end)))
