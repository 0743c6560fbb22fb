"""Writes the output: frames in segments into a work folder, and the finished file or folder from there.

Each writer converts frames (`prepare`, in any thread), takes them in order (`write`), ends segments (`cut`) and makes
them safe (`store`, which returns a mark as JSON data). It is opened again with such a mark after a crash, and puts the
result in place (`finish`). Video is encoded in segments that stand alone, each with its own encoder, so a job that was
stopped and one that was not write the same packets.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import re
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from stvsr_jax import files, stages
from stvsr_jax.video import colour, encoding, packet_store, remux, segment_encoder
from stvsr_jax.video.output_file import OutputFile


def check_output(path: pathlib.Path, *, overwrite: bool, is_folder: bool = False) -> None:
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
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"output {path} is a device or pipe, which a file would replace")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"output folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"output folder {folder} is not writable")


def is_picture_folder(path: pathlib.Path) -> bool:
    """Whether an output name means a folder of PNGs: an existing folder or a name without suffix."""
    return path.is_dir() or not path.suffix


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of the output that is complete, or will be without more frames.

    Attributes:
      packets: of a video; None of pictures.
      mark: to go on behind it, without what only the store knows.
    """

    packets: concurrent.futures.Future | None
    mark: int | None

    def wait(self) -> None:
        """Waits until it is encoded; raises what encoding raised."""
        if self.packets is not None:
            self.packets.result()


class VideoWriter:
    """Encodes frames into packets in a work folder, and makes the file of them.

    Args:
      file: that the packets will make.
      store: path of the packets.
      mark: of `store`, to go on from there; None starts anew.
      side_by_side: how many segments are encoded at a time.
      segment: frames of a segment, at most.
      timer: of encoding.
    """

    def __init__(
        self,
        file: OutputFile,
        store: pathlib.Path,
        mark: dict[str, Any] | None = None,
        *,
        side_by_side: int = 1,
        segment: int = 1,
        timer: stages.Timer | None = None,
    ):
        self._file = file
        self._work = store.parent
        self._maker = encoding.FrameMaker(file.video)
        self._encoder = segment_encoder.SegmentEncoder(
            file.video,
            has_global_header=file.has_global_header,
            workers=side_by_side,
            segment=segment,
            timer=timer or stages.Timer("encode", side_by_side),
        )
        self._last_pts = mark["last_pts"] if mark else None
        self._packets = packet_store.PacketStore(store, file.video.time_base, mark["sizes"] if mark else None)

    def prepare(self, image: np.ndarray, number: int) -> av.VideoFrame:
        """Returns what `write` takes of uint8 or uint16 [H, W, 3], the `number`-th; from any thread, in any order."""
        del number
        return self._maker.make(image)

    def write(self, frame: av.VideoFrame, time: Fraction, duration: Fraction) -> None:
        """Appends a frame; waits while many wait to be encoded.

        Args:
          frame: from `prepare`.
          time: presentation time, seconds; must rise.
          duration: seconds.
        """
        base = self._file.video.time_base
        pts = round(time / base)
        if self._last_pts is not None:
            pts = max(pts, self._last_pts + 1)
        self._last_pts = pts
        self._encoder.add(frame, pts, max(1, round(duration / base)))

    def cut(self) -> Segment:
        """Ends a segment: the next frame begins another."""
        return Segment(self._encoder.cut(), self._last_pts)

    def store(self, segment: Segment) -> dict[str, Any]:
        """Makes a segment, in order, safe and returns the mark to go on from."""
        for packet in segment.packets.result():
            self._packets.append(packet)
        return {"last_pts": segment.mark, "sizes": self._packets.flush()}

    def finish(self) -> list[str]:
        """Makes the file of the stored packets under its final name; returns notes on what differs from the plan."""
        return self._file.deliver(self._work, self._packets.read)

    def finish_partial(self) -> pathlib.Path:
        """Makes a file of the stored packets in the work folder; returns its path, or the folder's if that fails."""
        partial = files.fit_name(self._work / self._file.path.stem, f".partial{self._file.path.suffix}")
        try:
            self._file.assemble(partial, self._packets.read())
        except (av.FFmpegError, ValueError) as error:
            if remux.is_of_the_machine(error):
                raise
            return self._work
        return partial

    def close(self) -> None:
        self._encoder.close()
        self._packets.close()


class PictureWriter:
    """Writes frames as 00000000.png, 00000001.png ... into a work folder, and moves them to their folder.

    Args:
      path: the final folder.
      work: where they wait; other numbered PNGs there are of a run that was stopped.
      mark: of `store`, to go on from there; None starts anew.
    """

    def __init__(self, path: pathlib.Path, work: pathlib.Path, mark: int | None = None):
        self._path, self._work = path, work
        self._count = mark or 0
        work.mkdir(exist_ok=True)

    def prepare(self, image: np.ndarray, number: int) -> pathlib.Path:
        """Writes uint8 or uint16 [H, W, 3] as the `number`-th picture, in 8 bits; from any thread."""
        path = self._work / f"{number:08d}.png"
        Image.fromarray(colour.to_8_bits(image)).save(path, compress_level=1)
        return path

    def write(self, picture: pathlib.Path, time: Fraction, duration: Fraction) -> None:
        """Appends a picture from `prepare`; times do not matter."""
        del picture, time, duration
        self._count += 1

    def cut(self) -> Segment:
        """Ends a segment."""
        return Segment(None, self._count)

    def store(self, segment: Segment) -> int:
        """Makes a segment safe and returns the mark to go on from."""
        os.sync()
        return segment.mark

    def finish(self) -> list[str]:
        """Puts the pictures in place of the numbered PNGs there; other files are left alone.

        Stopped halfway it can be called again. Returns no notes.
        """
        self._path.mkdir(exist_ok=True)
        for number in range(self._count):
            name = f"{number:08d}.png"
            if (self._work / name).exists():
                os.replace(self._work / name, self._path / name)
        for old in self._path.glob("*.png"):
            if re.fullmatch(r"[0-9]{8}\.png", old.name) and int(old.stem) >= self._count:
                old.unlink()
        return []

    def finish_partial(self) -> pathlib.Path:
        """Returns the folder of the pictures there are."""
        return self._work

    def close(self) -> None:
        pass


class NullWriter:
    """Converts frames and forgets them, for measurements.

    Args:
      video: what they are converted for.
    """

    def __init__(self, video: encoding.VideoFormat):
        self._maker = encoding.FrameMaker(video)

    def prepare(self, image: np.ndarray, number: int) -> av.VideoFrame:
        """Converts uint8 or uint16 [H, W, 3]."""
        del number
        return self._maker.make(image)

    def write(self, frame: av.VideoFrame, time: Fraction, duration: Fraction) -> None:
        """Forgets a frame."""

    def cut(self) -> Segment:
        """Ends a segment."""
        return Segment(None, None)

    def store(self, segment: Segment) -> None:
        """Does nothing."""

    def finish(self) -> list[str]:
        """Does nothing; returns no notes."""
        return []

    def close(self) -> None:
        """Does nothing."""
