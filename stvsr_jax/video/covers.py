"""Cover pictures: a still picture that stands for a file, kept as a stream of its own or as an attachment."""

import dataclasses
import pathlib
from collections.abc import Sequence

import av

from stvsr_jax.video import decoding, media

# Kinds of picture that Matroska takes as attachments.
_MIME_TYPES = {
    "mjpeg": "image/jpeg",
    "png": "image/png",
    "bmp": "image/bmp",
    "webp": "image/webp",
    "gif": "image/gif",
}
_SUFFIXES = {"mjpeg": "jpg"}


@dataclasses.dataclass(frozen=True)
class Cover:
    """A cover picture.

    Attributes:
      index: of its stream.
      codec: FFmpeg's name.
      data: the encoded picture.
    """

    index: int
    codec: str
    data: bytes

    @property
    def label(self) -> str:
        return f"cover picture (stream {self.index}, {self.codec})"


def read_covers(source: pathlib.Path) -> list[Cover]:
    """Returns the cover pictures of a file."""
    covers = []
    with media.open_to_read(source) as container:
        streams = {s.index: s.codec_context.name for s in container.streams.video if decoding.is_cover(s)}
        # They come first; formats that keep them beside the packets hand them out once.
        for packet in container.demux(*(container.streams[index] for index in streams)) if streams else ():
            if packet.size and packet.stream_index in streams:
                covers.append(Cover(packet.stream_index, streams.pop(packet.stream_index), bytes(packet)))
            if not streams:
                break
    return covers


def add_covers(
    container: av.container.OutputContainer, source: pathlib.Path, covers: Sequence[Cover]
) -> list[av.Packet]:
    """Adds the covers of a file to another that has no header yet; returns packets to write after the header.

    Raises:
      ValueError, av.FFmpegError: the format does not hold them.
    """
    if container.format.name == "matroska":
        for cover in covers:
            if cover.codec not in _MIME_TYPES:
                raise ValueError(f"no type of attachment for {cover.codec}")
            name = f"cover.{_SUFFIXES.get(cover.codec, cover.codec)}"
            container.add_attachment(name, _MIME_TYPES[cover.codec], cover.data)
        return []
    packets = []
    with media.open_to_read(source) as given:
        for cover in covers:
            stream = container.add_stream_from_template(given.streams[cover.index])
            stream.disposition = av.stream.Disposition.attached_pic
            packet = av.Packet(cover.data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, stream.time_base, True
            packet.pts = packet.dts = 0
            packets.append(packet)
    return packets


def count_covers(path: pathlib.Path) -> int:
    """Returns how many cover pictures a file shows."""
    with media.open_to_read(path) as container:
        return sum(map(decoding.is_cover, container.streams.video))
