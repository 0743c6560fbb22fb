"""Writes the output: frames in segments into a work folder, and the finished file or folder from there.

Each writer takes frames (`write`), makes what it has safe (`end_segment`, which returns a mark as JSON data), is
opened again with such a mark after a crash, and puts the result in place (`finish`). Video is encoded in
segments that stand alone, each with its own encoder, so a job that was stopped and one that was not write the
same packets.
"""

import os
import pathlib
import re
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from stvsr_jax.inference import packet_store, remux, video_encoder, work_folder
from stvsr_jax.inference.video_assembly import VideoFile
from stvsr_jax.video import colour


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

    def finish(self) -> list[str]:
        """Makes the file and gives it its name; returns notes on what is not as was planned."""
        self._flush()
        return self._file.deliver(self._work, self._packets.read)

    def finish_partial(self) -> pathlib.Path:
        """Makes a file of what there is in the work folder and returns its name, or the folder's if it fails."""
        self._flush()
        target = work_folder.fit(self._work / self._file.path.stem, f".partial{self._file.path.suffix}")
        try:
            self._file.assemble(target, self._packets.read())
        except (av.FFmpegError, ValueError) as error:
            if remux.is_of_the_machine(error):
                raise
            return self._work
        return target

    def close(self) -> None:
        self._packets.close()

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
