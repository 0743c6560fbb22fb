"""A network that runs in the processes of several devices: there a `Predictor` each, here what is used like one.

Frames and results lie in memory that both processes map. A result is an array there; the piece of memory is used again
once no array lies in it any more, so that nothing is copied and no fresh page is touched after the first calls.
"""

import collections
import concurrent.futures
import copy
import dataclasses
import functools
import math
import mmap
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from stvsr_jax.inference import planes
from stvsr_jax.inference.device_processes import DeviceProcess
from stvsr_jax.inference.predictor import Predictor
from stvsr_jax.runtime import compilation

_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class RemoteDevice:
    """What is asked of a `jax.Device`, for the one of another process."""

    process: DeviceProcess
    platform: str
    device_kind: str

    def memory_stats(self) -> dict[str, int] | None:
        """Returns what JAX says of the device's memory."""
        return self.process.call(_memory_stats)


class DeviceNetwork:
    """A network that each of some processes has on its device; used as a `Predictor` by jobs.

    Args:
      network: on any device of this process, where it is not run.
      processes: one for each device; they are given the network instead of any that they had.

    Attributes:
      tile: as of a `Predictor`.
      devices: one for each process.
    """

    def __init__(self, network: Predictor, processes: Sequence[DeviceProcess]):
        self._network, self._processes = network, list(processes)
        self.tile = network.tile
        self._memories = [Memory(process.memory) for process in processes]
        self._lock = threading.Lock()
        request = pickle.dumps((_take_network, (network.maker(),)))
        with concurrent.futures.ThreadPoolExecutor(len(self._processes)) as pool:
            facts = list(pool.map(lambda process: process.send(request), self._processes))
        self.devices = [
            RemoteDevice(*pair) for pair in zip(self._processes, *zip(*facts, strict=True), strict=True)
        ]

    @property
    def name(self) -> str:
        """The model's."""
        return self._network.name

    @property
    def window_size(self) -> int:
        """Frames of a window."""
        return self._network.window_size

    @property
    def dtype(self) -> str:
        """Of the network."""
        return self._network.dtype

    @property
    def identity(self) -> str:
        """As of a `Predictor`, and the same."""
        return self._network.identity

    def with_dtype(self, dtype: str) -> "DeviceNetwork":
        """Returns the same network in another number format."""
        other = copy.copy(self)
        other._network = self._network.with_dtype(dtype)
        return other

    def predict_windows(
        self,
        frames: np.ndarray,
        times: Sequence[Sequence[float]],
        *,
        out_size: tuple[int, int],
        rounded: bool = True,
        device: int = 0,
        instants: int | None = None,
        layout: planes.Layout | None = None,
    ) -> np.ndarray:
        """Renders instants of several windows at once, on the device with a number; see `Predictor.predict_windows`."""
        widest = max(frames.itemsize if rounded else 4, layout.dtype.itemsize if layout else 1)
        most = len(frames) * len(times[0]) * math.prod(out_size) * 3 * widest
        memory = self._memories[device]
        piece = memory.take(_align(frames.nbytes) + most)
        try:
            piece.view(0, frames.shape, frames.dtype)[...] = frames
            settings = {"out_size": out_size, "rounded": rounded, "instants": instants, "layout": layout}
            tile = self.tile
            place = memory.file, piece.offset, piece.size
            made = (frames.shape, frames.dtype.str, times)
            used, shape, dtype = self._processes[device].call(
                _predict, place, *made, self.dtype, tile, settings
            )
        except BaseException:
            memory.give_back(piece)
            raise
        if (
            used != tile
        ):  # chosen there, or halved since memory ran out; another device may have been there before
            with self._lock:
                self.tile = min((one for one in (self.tile, used) if one), default=0)
        return memory.lend(piece, _align(frames.nbytes), shape, dtype)

    def on_each(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Returns what `function(network, *args, **kwargs)` returns in each process, all at the same time."""
        request = pickle.dumps((_with_network, (self.dtype, functools.partial(function, **kwargs), *args)))
        with concurrent.futures.ThreadPoolExecutor(len(self._processes)) as pool:
            return list(pool.map(lambda process: process.send(request), self._processes))


class Piece:
    """A piece of a file in memory, mapped."""

    def __init__(self, file: int, offset: int, size: int):
        self.offset, self.size = offset, size
        self.map = mmap.mmap(file, size, offset=offset)

    def view(self, first: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Returns the array of `shape` that begins at byte `first`."""
        return np.frombuffer(self.map, dtype, math.prod(shape), first).reshape(shape)


class Memory:
    """A file in memory that is handed out in pieces, each again once it is not used any more.

    Args:
      file: its number; it grows as needed.
    """

    def __init__(self, file: int):
        self.file = file
        self._end = os.fstat(file).st_size
        self._free = (
            collections.deque()
        )  # filled by the garbage collector, at any place of any thread: no locks
        self._growing = threading.Lock()

    def take(self, size: int) -> Piece:
        """Returns a piece of at least so many bytes."""
        while self._free:
            try:
                piece = self._free.pop()
            except IndexError:  # another thread has it
                break
            if piece.size >= size:
                return piece
            piece.map.madvise(mmap.MADV_REMOVE)  # too small from now on: its pages go
        with self._growing:
            offset = self._end
            self._end += -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
            os.ftruncate(self.file, self._end)
        return Piece(self.file, offset, self._end - offset)

    def give_back(self, piece: Piece) -> None:
        """Makes a piece free that no array lies in."""
        self._free.append(piece)

    def lend(self, piece: Piece, first: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Returns the array at byte `first`; when it and all its parts are gone, the piece is free."""
        whole = np.frombuffer(piece.map, np.uint8)  # the base of all arrays that are made of it
        weakref.finalize(whole, self._free.append, piece).atexit = False
        count = math.prod(shape) * np.dtype(dtype).itemsize
        return whole[first : first + count].view(dtype).reshape(shape)


def _align(size):
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def platform_of(process: DeviceProcess) -> str:
    """Returns the platform of a process's device, as JAX calls it."""
    return process.call(_platform)


# In the process of a device.

_networks: dict[str, Predictor] = {}  # the one network, by number format
_map = functools.cache(Piece)


def _take_network(make):
    compilation.keep_compiled_programs()
    network = make()
    _networks.clear()
    _networks[network.dtype] = network
    (device,) = network.devices
    return device.platform, device.device_kind


def _network_in(dtype):
    if dtype not in _networks:
        _networks[dtype] = next(iter(_networks.values())).with_dtype(dtype)
    return _networks[dtype]


def _predict(place, shape, dtype, times, network_dtype, tile, settings):
    """Returns (tile that was used, shape and type of the result, which lies behind the frames)."""
    piece = _map(*place)
    network = copy.copy(_network_in(network_dtype))  # other calls may need another tile at the same time
    network.tile = tile
    frames = piece.view(0, shape, np.dtype(dtype))
    windows = network.predict_windows(frames, times, **settings)
    whole = len(windows), *windows[0].shape
    result = piece.view(_align(frames.nbytes), whole, windows[0].dtype)
    for place, window in zip(result, windows, strict=True):
        place[...] = window
    return network.tile, whole, result.dtype.str


def _with_network(dtype, function, *args):
    return function(_network_in(dtype), *args)


def _platform():
    return jax.default_backend()


def _memory_stats():
    return jax.local_devices()[0].memory_stats()
