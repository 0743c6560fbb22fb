"""A file of encoded packets that grows, survives a crash, and can be cut back to where it was whole.

The bytes lie in one file, a line of JSON per packet in another. What was flushed is safe; what came after it
is cut off by `PacketStore.open` with the mark that `flush` returned.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction

import av


class PacketStore:
    """Packets on disk, appended in order.

    Args:
      path: of the bytes; the index lies beside it.
      time_base: of the packets' time stamps, seconds.
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
        facts = [packet.size, packet.pts, packet.dts, packet.duration, bool(packet.is_keyframe)]
        index.write(json.dumps(facts).encode() + b"\n")

    def flush(self) -> list[int]:
        """Brings everything to the disk and returns the mark of this state."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        return [os.fstat(file.fileno()).st_size for file in self._files]

    def read(self) -> Iterator[av.Packet]:
        """Yields all packets."""
        for file in self._files:
            file.flush()
        with open(self._paths[0], "rb") as data, open(self._paths[1], "rb") as index:
            for line in index:
                size, pts, dts, duration, is_key = json.loads(line)
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
