"""A file of encoded packets that grows, survives a crash, and can be cut back to where it was whole.

The bytes lie in one file, a line of JSON per packet in another. Packets that were flushed are safe. Later ones are cut off
if the store is opened with the mark that `flush` returned.

Encoders count decoding times from each segment's first frame. They would overlap between two segments if a frame is missing
between. So they are not kept: they follow from the presentation times and the order.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

VERSION = 4  # of the files' format, and of what `VideoWriter.store` notes of them


class PacketStore:
    """Packets on disk, appended in order.

    Args:
      path: of the bytes; the index lies beside it.
      time_base: of the packets' pts, seconds.
      mark: of `flush`: how much there is; what follows is cut off. None starts anew.
    """

    def __init__(self, path: pathlib.Path, time_base: Fraction, mark: list[int] | None = None):
        self._time_base = time_base
        self._paths = [path, path.with_suffix(".index")]
        self._files = [open(file, "ab") for file in self._paths]
        for file, size in zip(self._files, mark or [0, 0], strict=True):
            if os.fstat(file.fileno()).st_size < size:
                raise ValueError(f"{file.name} is shorter than it was; remove its folder and start again")
            file.truncate(size)

    def append(self, packet: av.Packet) -> None:
        """Adds a packet."""
        data, index = self._files
        data.write(bytes(packet))
        facts = [packet.size, packet.pts, packet.duration, bool(packet.is_keyframe)]
        index.write(json.dumps(facts).encode() + b"\n")

    def flush(self) -> list[int]:
        """Brings everything to the disk and returns the mark of this state."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        return [os.fstat(file.fileno()).st_size for file in self._files]

    def read(self) -> Iterator[av.Packet]:
        """Yields all packets, with decoding times that rise throughout."""
        for file in self._files:
            file.flush()
        with open(self._paths[1], "rb") as index:
            all_pts = np.array([json.loads(line)[1] for line in index], np.int64)
        all_dts = decoding_times(all_pts).tolist()
        with open(self._paths[0], "rb") as data, open(self._paths[1], "rb") as index:
            for line, dts in zip(index, all_dts, strict=True):
                size, pts, duration, is_key = json.loads(line)
                packet = av.Packet(data.read(size))
                packet.pts, packet.dts, packet.duration = pts, dts, duration
                packet.is_keyframe, packet.time_base = is_key, self._time_base
                yield packet

    def close(self) -> None:
        for file in self._files:
            try:
                file.close()
            except OSError:
                pass  # a full disk; what is not whole is cut off when the job goes on


def decoding_times(pts: np.ndarray) -> np.ndarray:
    """Returns when each packet is decoded, from when it is shown.

    With a reordering depth D (the most frames that any packet is stored ahead of), packet i is decoded when
    the frame of rank i - D is shown; the first D come one tick apart before the first frame.

    Args:
      pts: int64 [N] presentation times in storage order, all different, in ticks.

    Returns:
      int64 [N], rising, none after its `pts`.
    """
    if not len(pts):
        return pts
    shown = np.sort(pts)
    depth = int((np.arange(len(pts)) - np.searchsorted(shown, pts)).max())
    return np.concatenate([shown[0] + np.arange(-depth, 0), shown[: len(pts) - depth]])
