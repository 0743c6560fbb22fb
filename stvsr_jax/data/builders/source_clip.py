"""Clips as data sets are published: folders of images, images in a zip archive, videos.

Frames come in order and every one is decoded. One that cannot be is not the end: the rest is looked at too,
so that the `UnusableClip` at the end of `frames` names all of them.
"""

import dataclasses
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from PIL import Image

from stvsr_jax.files import list_images
from stvsr_jax.video import colour, decoding, deinterlacing, media


class UnusableClip(ValueError):
    """Frames of a clip cannot be read."""


class SourceClip(Protocol):
    """A clip to be prepared; picklable.

    Attributes:
      name: unique in its data set.
      num_frames: of a video as far as its container says; for progress.
    """

    name: str
    num_frames: int

    def frames(self) -> Iterator[np.ndarray]:
        """Yields all frames, uint8 [H, W, 3] RGB; raise UnusableClip at the end for the others."""

    def facts(self) -> list:
        """Returns what tells whether the clip's files have changed: names, sizes, times or checksums."""


@dataclasses.dataclass(frozen=True)
class ImageClip:
    """Images in a folder, one per frame, in the order of `files`."""

    name: str
    folder: str
    files: tuple[str, ...]

    @property
    def num_frames(self) -> int:
        return len(self.files)

    def facts(self) -> list:
        stats = [os.stat(os.path.join(self.folder, file)) for file in self.files]
        return [self.folder, [[f, s.st_size, s.st_mtime_ns] for f, s in zip(self.files, stats, strict=True)]]

    def frames(self) -> Iterator[np.ndarray]:
        return _decode_images([os.path.join(self.folder, file) for file in self.files], _read_file)


@dataclasses.dataclass(frozen=True)
class ZipMember:
    """A file in a zip archive, to be read without the archive's directory.

    Reading the directory of Vimeo-90k takes 8 seconds and 400 MB, which is too much for each worker process.

    Attributes:
      name: in the archive.
      offset: of its header, in bytes.
      size: as stored.
      method: zipfile.ZIP_STORED or ZIP_DEFLATED.
      checksum: CRC-32 of its content.
    """

    name: str
    offset: int
    size: int
    method: int
    checksum: int

    @classmethod
    def of(cls, info: zipfile.ZipInfo) -> "ZipMember":
        """Returns what an archive's directory says; raises ValueError for other kinds of compression."""
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise ValueError(
                f"{info.filename} is encrypted or compressed in an unusual way; extract the archive"
            )
        return cls(info.filename, info.header_offset, info.compress_size, info.compress_type, info.CRC)

    def read(self, archive: str) -> bytes:
        """Returns the content; raises ValueError or zlib.error if it is damaged."""
        with open(archive, "rb") as file:
            file.seek(self.offset)
            header = file.read(30)
            if header[:4] != b"PK\3\4":
                raise ValueError("its header is damaged")
            # The lengths of the name and the extra field, which come between header and content.
            file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
            data = file.read(self.size)
        if self.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompress(data, -zlib.MAX_WBITS)
        if zlib.crc32(data) != self.checksum:
            raise ValueError("its checksum is wrong")
        return data


@dataclasses.dataclass(frozen=True)
class ZippedClip:
    """Images in a zip archive, one per frame, in the order of `members`."""

    name: str
    archive: str
    members: tuple[ZipMember, ...]

    @property
    def num_frames(self) -> int:
        return len(self.members)

    def facts(self) -> list:
        return [[member.name, member.size, member.checksum] for member in self.members]

    def frames(self) -> Iterator[np.ndarray]:
        members = {member.name: member for member in self.members}
        return _decode_images(list(members), lambda name: members[name].read(self.archive))


@dataclasses.dataclass(frozen=True)
class VideoClip:
    """A video file, upright."""

    name: str
    path: str
    num_frames: int

    def facts(self) -> list:
        status = os.stat(self.path)
        return [self.path, status.st_size, status.st_mtime_ns]

    def frames(self) -> Iterator[np.ndarray]:
        size, converter, count, damaged = None, None, 0, []
        # What decodes a damaged video may stop with an error or go on; both are told.
        try:
            with media.open_to_read(self.path) as container:
                stream = decoding.best_video_stream(container)
                frames = decoding.decode(container.demux(stream), stream)
                for frame in deinterlacing.deinterlace(frames, stream.time_base):
                    if converter is None:
                        size = frame.height, frame.width
                        converter = colour.RgbConverter(colour.read_tags(frame))
                        orientation = decoding.read_orientation(frame)
                    if (frame.height, frame.width) != size:
                        raise UnusableClip(f"{self.path} changes its size at frame {count}")
                    if frame.is_corrupt:
                        damaged.append(str(count))
                    count += 1
                    yield decoding.make_upright(converter.to_rgb(frame), orientation)
        except NotImplementedError as error:
            raise UnusableClip(f"{self.path}: {error}") from error
        except av.error.FFmpegError as error:
            raise UnusableClip(f"{self.path} cannot be decoded at frame {count}: {error.strerror}") from error
        if damaged:
            raise UnusableClip(f"{self.path} has damaged frames: {', '.join(damaged)}")
        if count < max(1, 0.98 * self.num_frames):
            raise UnusableClip(f"{self.path} is cut short: {count} of {self.num_frames} frames are there")


def open_image_folder(folder: Path, name: str) -> ImageClip:
    """Returns the clip of numbered images (000001.png, frame_12.jpg) in `folder`.

    Raises:
      ValueError: it holds none, or numbers are missing between the first and the last.
    """
    files = list_images(folder)
    if not files:
        raise ValueError(f"{folder} holds no images")
    numbers = [re.findall(r"\d+", Path(file).stem) for file in files]
    if all(numbers):
        there = {int(parts[-1]) for parts in numbers}
        missing = [n for n in range(min(there), max(there)) if n not in there]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} frames between its first and last: {first_few(missing)}"
            )
    return ImageClip(name, str(folder), files)


def first_few(missing: Sequence) -> str:
    """Returns the first ten of them for a message."""
    return ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")


def open_video(path: Path, name: str) -> VideoClip:
    """Returns the clip of a video; raises ValueError unless it opens as one."""
    try:
        with media.open_to_read(path) as container:
            return VideoClip(name, str(path), decoding.best_video_stream(container).frames)
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as a video: {error.strerror}") from error


def _decode_images(names: Sequence[str], read: Callable[[str], bytes]) -> Iterator[np.ndarray]:
    """Yields the images called `names`; raise UnusableClip at the end for those that do not decode."""
    problems, size = [], None
    for name in names:
        try:
            with Image.open(io.BytesIO(read(name))) as image:
                frame = np.asarray(image.convert("RGB"))
        # PIL raises SyntaxError for some broken PNGs, an archive zlib.error.
        except (OSError, SyntaxError, ValueError, zlib.error) as error:
            problems.append(f"{name} ({_first_line(error)})")
            continue
        size = size or frame.shape[:2]
        if frame.shape[:2] != size:
            height, width = frame.shape[:2]
            problems.append(
                f"{name} ({width}x{height} pixels, the clip's first frame has {size[1]}x{size[0]})"
            )
            continue
        yield frame
    if problems:
        raise UnusableClip("frames that cannot be used: " + ", ".join(problems))


def _first_line(error: Exception) -> str:
    text = "cannot be identified as an image" if "BytesIO" in str(error) else str(error)
    return (text.splitlines() or [type(error).__name__])[0]


def _read_file(path: str) -> bytes:
    return Path(path).read_bytes()
