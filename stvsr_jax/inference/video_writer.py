"""Writes the output: frames in segments into a work folder, and the finished file or folder from there.

Each writer takes frames (`write`), makes what it has safe (`end_segment`, which returns a mark as JSON data), is
opened again with such a mark after a crash, and puts the result in place (`finish`). Video is encoded in
segments that stand alone, each with its own encoder, so a job that was stopped and one that was not write the
same packets.
"""

import os
import pathlib
import re
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from stvsr_jax.data import media
from stvsr_jax.inference import colour, packet_store, remux, video_encoder
from stvsr_jax.inference.video_encoder import VideoFormat

# Container facts that are not the user's, or that the muxer writes itself.
_OWN_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder")
_MP4_SUFFIXES = (".mp4", ".mov", ".m4v")


def check_target(path: pathlib.Path, *, overwrite: bool, is_folder: bool = False) -> None:
    """Checks that an output, a folder if `is_folder`, can be written.

    Raises:
      ValueError: it exists and `overwrite` is false, or its folder is missing or not writable.
    """
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"output {path} exists; --overwrite replaces it")
    if path.is_dir() and path.suffix and not is_folder:
        raise ValueError(f"output {path} is a folder")
    if is_folder and path.exists() and not path.is_dir():
        raise ValueError(f"output {path} is a file; a folder of pictures cannot replace it")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"output folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"output folder {folder} is not writable")


def is_picture_folder(path: pathlib.Path) -> bool:
    """Whether an output name means a folder of PNGs: an existing folder or a name without suffix."""
    return path.is_dir() or not path.suffix


class VideoFile:
    """A video file to be: what it holds besides its picture, and how its packets are put into it.

    Args:
      path: final name; its suffix chooses the container.
      video: what to write.
      source: input file whose sound, subtitles and chapters are carried over, or None.
      origin: seconds of the source's clock that are time 0.
      is_trimmed: whether to end them with the picture.

    Attributes:
      notes: remarks on streams that cannot be copied and on cropping, one line each.
      has_global_header: whether packets come without headers of their own.

    Raises:
      ValueError: the container does not exist or does not hold the codec.
    """

    def __init__(
        self,
        path: pathlib.Path,
        video: VideoFormat,
        *,
        source: pathlib.Path | None = None,
        origin: Fraction = Fraction(0),
        is_trimmed: bool = False,
    ):
        self.path, self.video = path, video
        self._source, self._origin, self._is_trimmed = source, origin, is_trimmed
        with tempfile.TemporaryDirectory() as folder:
            trial = pathlib.Path(folder) / f"trial{path.suffix}"
            try:
                container, _, sides = self._open(trial)
                self.has_global_header = bool(container.format.flags & av.format.Flags.global_header.value)
                self.notes = sides.notes if sides else []
                if sides:
                    sides.close()
                _close_quietly(container)
            except (av.FFmpegError, ValueError, OSError) as error:
                raise ValueError(
                    f"output {path} cannot be written with codec {video.codec}: {error}"
                ) from error
        height, width = video.encoded_size
        if (height, width) != (video.height, video.width):
            self.notes.append(f"cropped to {width}x{height}: {video.encoded_format} needs even sizes")

    def assemble(self, target: pathlib.Path, packets: Iterable[av.Packet]) -> None:
        """Writes a file of encoded packets and whatever comes with them; leaves none if that fails."""
        container = sides = None
        try:
            container, stream, sides = self._open(target)
            end = Fraction(0)
            for packet in packets:
                if sides:
                    sides.mux_until(packet.dts * packet.time_base)
                end = max(end, (packet.pts + packet.duration) * packet.time_base)
                packet.stream = stream
                container.mux_one(packet)
            if sides:
                sides.mux_until(end if self._is_trimmed else None)
                sides.finish()
            container.close()
        except BaseException:
            if container:
                _close_quietly(container)
            target.unlink(missing_ok=True)
            raise
        finally:
            if sides:
                sides.close()

    def _open(self, target):
        """Returns (container, its video stream, SideStreams or None), the header written."""
        video = self.video
        is_mp4 = target.suffix.lower() in _MP4_SUFFIXES
        container = media.open_to_write(target, options={"movflags": "+faststart"} if is_mp4 else {})
        sides = None
        try:
            # Its encoder is opened to describe the stream and never used.
            encoder = video_encoder.CODECS[video.codec].encoder
            options = video_encoder.encoder_options(video)
            stream = container.add_stream(encoder, rate=video.rate, options=options)
            video_encoder.configure(stream.codec_context, video, is_tagged=is_mp4)
            stream.disposition = av.stream.Disposition.default
            if video.language:
                stream.metadata["language"] = video.language
            container.metadata.update({k: v for k, v in video.metadata.items() if k not in _OWN_METADATA})
            if self._source is not None:
                sides = remux.SideStreams(self._source, container, origin=self._origin)
                if not self._is_trimmed:
                    _copy_chapters(self._source, container)
            container.start_encoding()  # what the encoders and the container refuse, they refuse here
        except BaseException:
            if sides:
                sides.close()
            _close_quietly(container)
            raise
        return container, stream, sides


class VideoWriter:
    """Encodes frames into packets in a work folder, and makes the file of them.

    Args:
      file: what the packets are for.
      store: path of the packets.
      mark: of `end_segment`, to go on from there; None starts anew.
    """

    def __init__(self, file: VideoFile, store: pathlib.Path, mark: dict[str, Any] | None = None):
        self._file = file
        self._work = store.parent
        self._encoder = None
        self._last_stamp = mark["last_stamp"] if mark else None
        self._packets = packet_store.PacketStore(store, file.video.time_base, mark["sizes"] if mark else None)

    def write(self, image: np.ndarray, time: Fraction, duration: Fraction) -> None:
        """Appends a frame.

        Args:
          image: uint8 or uint16 [H, W, 3].
          time: when it is shown, seconds; must rise.
          duration: for how long, seconds.
        """
        video = self._file.video
        stamp = round(time / video.time_base)
        if self._last_stamp is not None:
            stamp = max(stamp, self._last_stamp + 1)
        self._last_stamp = stamp
        if self._encoder is None:
            self._encoder = video_encoder.VideoEncoder(video, has_global_header=self._file.has_global_header)
        for packet in self._encoder.encode(image, stamp, max(1, round(duration / video.time_base))):
            self._packets.append(packet)

    def end_segment(self) -> dict[str, Any]:
        """Completes the packets, makes them safe and returns the mark to go on from."""
        self._flush()
        return {"last_stamp": self._last_stamp, "sizes": self._packets.flush()}

    def finish(self) -> None:
        """Makes the file and gives it its name."""
        whole = self._assemble("whole")
        os.replace(whole, self._file.path)

    def finish_partial(self) -> pathlib.Path:
        """Makes a file of what there is in the work folder and returns its name."""
        return self._assemble("partial")

    def close(self) -> None:
        self._packets.close()

    def _assemble(self, name):
        self._flush()
        target = self._work / f"{self._file.path.stem}.{name}{self._file.path.suffix}"
        self._file.assemble(target, self._packets.read())
        return target

    def _flush(self):
        encoder, self._encoder = self._encoder, None
        for packet in encoder.flush() if encoder else ():
            self._packets.append(packet)


class PictureWriter:
    """Writes frames as 00000000.png, 00000001.png ... into a work folder, and moves them to their folder.

    Args:
      path: the final folder.
      work: where they wait; other numbered PNGs there are of a run that was stopped.
      mark: of `end_segment`, to go on from there; None starts anew.
    """

    def __init__(self, path: pathlib.Path, work: pathlib.Path, mark: int | None = None):
        self._path, self._work = path, work
        self._count = mark or 0
        work.mkdir(exist_ok=True)

    def write(self, image: np.ndarray, time: Fraction, duration: Fraction) -> None:
        """Appends a frame, uint8 or uint16 [H, W, 3]; times do not matter to pictures, which have 8 bits."""
        del time, duration
        picture = Image.fromarray(colour.to_8_bits(image))
        picture.save(self._work / f"{self._count:08d}.png", compress_level=1)
        self._count += 1

    def end_segment(self) -> int:
        """Makes the pictures safe and returns the mark to go on from."""
        os.sync()
        return self._count

    def finish(self) -> None:
        """Puts the pictures in place of the numbered PNGs there; other files are left alone.

        Stopped halfway it can be called again.
        """
        self._path.mkdir(exist_ok=True)
        for number in range(self._count):
            name = f"{number:08d}.png"
            if (self._work / name).exists():
                os.replace(self._work / name, self._path / name)
        for old in self._path.glob("*.png"):
            if re.fullmatch(r"[0-9]{8}\.png", old.name) and int(old.stem) >= self._count:
                old.unlink()

    def finish_partial(self) -> pathlib.Path:
        """Returns the folder of the pictures there are."""
        return self._work

    def close(self) -> None:
        pass


def _copy_chapters(source, container):
    with media.open_to_read(source) as given:
        if chapters := given.chapters():
            container.set_chapters(chapters)


def _close_quietly(container):
    try:
        container.close()
    except (av.FFmpegError, ValueError, OSError):
        pass  # a half-written file need not be closed in order: it is deleted next
