"""Reads single frames of an indexed video, from the video itself or from the tiles in its cache.

In the video: seek to the keyframe before, decode up to the frame.

Readers hold an open file and a decoder or converter, cannot be shared between threads and cannot be pickled. So clips do
not own any: they borrow one for the length of a read from a pool that each process has, and that keeps only
the most recently used ones open.
"""

import bisect
import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from stvsr_jax.video import decoding, deinterlacing, frame_parts, media, tile_store
from stvsr_jax.video.colour import UNSPECIFIED, ColourTags, RgbConverter

# Idle readers a process keeps open; one for 720p H.264 holds some 20 MB of reference frames.
_MAX_IDLE = 64


@dataclasses.dataclass(frozen=True)
class VideoIndex:
    """Where each frame of a video is.

    Attributes:
      path: the video.
      media: the file to read frames from: the video itself, or its tiles, see `tile_store`.
      num_frames, height, width: exact, in frames and pixels; upright.
      pts: of each frame in the video, ascending, in its stream's time base; empty where tiles are read.
      keyframes: frames that decoding can start at, ascending; the first is 0; empty where tiles are read.
      matrix, is_full_range: how pixels become RGB, see `colour.ColourTags`.
      orientation: what makes a decoded frame upright, see `decoding.make_upright`.
    """

    path: str
    media: str
    num_frames: int
    height: int
    width: int
    pts: tuple[int, ...] = dataclasses.field(repr=False)
    keyframes: tuple[int, ...] = dataclasses.field(repr=False)
    matrix: int
    is_full_range: bool
    orientation: tuple[bool, bool, bool]

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict) -> "VideoIndex":
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


class VideoReader:
    """An open video, positioned somewhere in it."""

    def __init__(self, index: VideoIndex):
        self._index = index
        self._container, self._stream = _open(index.media)
        self._converter = RgbConverter(_tags(index))
        self._frames = iter(())
        # The frame that `_frames` yields next, None when a seek is needed to know.
        self._next = None

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB; see `clip.Clip.read`."""
        size, orientation = (self._index.height, self._index.width), self._index.orientation
        part = crop and decoding.turn_back(crop, size, orientation)
        found = {}
        for n in sorted(set(indices)):
            found[n] = decoding.make_upright(self._converter.to_rgb(self._seek(n), part), orientation)
        return np.stack([found[n] for n in indices])

    def read_thumbnail(self, n: int, size: tuple[int, int]) -> np.ndarray:
        """Returns frame `n` averaged down to uint8 [*size, 3] RGB."""
        return shrink_upright(self._converter, self._seek(n), size, self._index.orientation)

    def close(self) -> None:
        self._frames = iter(())
        self._container.close()

    def _seek(self, n: int) -> av.VideoFrame:
        """Returns frame `n`; raise ValueError if the video no longer has it where the index says."""
        keyframes = self._index.keyframes
        key = bisect.bisect_right(keyframes, n) - 1
        if self._next is not None and keyframes[key] <= self._next <= n:
            frame = self._decode_to(n)
            if frame is not None:
                return frame
        # Some containers land behind the pts asked for; then start from a keyframe further back.
        while key >= 0:
            self._container.seek(self._index.pts[keyframes[key]], stream=self._stream)
            self._frames = decoding.decode(self._container.demux(self._stream), self._stream)
            frame = self._decode_to(n)
            if frame is not None:
                return frame
            key -= 1
        raise ValueError(f"frame {n} of {self._index.path} is not in {self._index.media} any more")

    def _decode_to(self, n: int) -> av.VideoFrame | None:
        """Decodes on until frame `n`, or until it is clear that it does not come."""
        for frame in self._frames:
            if frame.pts is None:
                continue
            number = bisect.bisect_left(self._index.pts, frame.pts)
            if number < n:
                continue
            self._next = number + 1
            return frame if frame.pts == self._index.pts[n] else None
        self._next = None
        return None


class TileReader:
    """The open tiles of a video."""

    def __init__(self, index: VideoIndex):
        self._index = index
        self._file = tile_store.TileFile(Path(index.media))
        self._converter = RgbConverter(_tags(index))
        self._like = None
        if self._file.pixel_format != "rgb":
            with _first_frame_lock:
                self._like = frame_parts.resize_like(
                    _first_frame(index.path, index.media), *_LIKE_SIZE, self._file.pixel_format
                )

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB; see `clip.Clip.read`."""
        orientation, size = self._index.orientation, self._file.size
        upright = (self._index.height, self._index.width)
        part = decoding.turn_back(crop or (0, 0, *upright), upright, orientation)
        numbers = sorted(set(indices))
        found = dict(zip(numbers, self._read(numbers, part, size), strict=True))
        return np.stack([decoding.make_upright(found[n], orientation) for n in indices])

    def _read(self, numbers, part, size):
        if self._like is None:
            for planes in self._file.read(numbers, part):
                yield np.stack(planes, axis=-1)
            return
        name = self._file.pixel_format
        top, left, height, width = part
        row, column, *_ = needed = frame_parts.needed_part(part, size, name)
        for planes in self._file.read(numbers, needed):
            rgb = self._converter.planes_to_rgb(planes, name, self._like)
            yield rgb[top - row : top - row + height, left - column : left - column + width]

    def close(self) -> None:
        """Leaves the file to the garbage collector: what was read from it may still be in use."""


@functools.lru_cache(maxsize=4096)
def _first_frame(path: str, media: str) -> av.VideoFrame:
    """Returns a small frame with chroma sited as in a video; reading it costs more than a sample of a training run."""
    del media  # tells a video from one that was here before
    container, stream = _open(path)
    with container:
        frames = decoding.decode(container.demux(stream), stream)
        first = next(deinterlacing.deinterlace(frames, stream.time_base))
    return frame_parts.resize_like(first, *_LIKE_SIZE, first.format.name)


_LIKE_SIZE = (16, 16)
_first_frame_lock = threading.Lock()


def _tags(index: VideoIndex) -> ColourTags:
    return ColourTags(index.matrix, index.is_full_range, UNSPECIFIED, UNSPECIFIED)


def open_reader(index: VideoIndex) -> VideoReader | TileReader:
    """Opens what `index.media` names."""
    return VideoReader(index) if index.media == index.path else TileReader(index)


def shrink_upright(
    converter: RgbConverter, frame: av.VideoFrame, size: tuple[int, int], orientation: tuple[bool, bool, bool]
) -> np.ndarray:
    """Returns a frame averaged down, and upright, as uint8 [*size, 3] RGB."""
    return decoding.make_upright(converter.shrink(frame, size[::-1] if orientation[0] else size), orientation)


def _open(path: str):
    """Opens a video for reading; returns its container and video stream."""
    container = media.open_to_read(path)
    stream = decoding.best_video_stream(container)
    # Samples are read by many threads at once; threads inside each decoder would only get in the way.
    stream.codec_context.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container, stream


class _Pool:
    """Idle readers, most recently used last."""

    def __init__(self):
        self._lock = threading.Lock()
        self._idle: list[tuple[VideoIndex, VideoReader | TileReader]] = []
        self._process = os.getpid()

    def take(self, index: VideoIndex) -> VideoReader | TileReader:
        with self._lock:
            if self._process != os.getpid():
                # A forked process shares file positions with its parent: leave those readers alone.
                self._process, self._idle = os.getpid(), []
            for i in reversed(range(len(self._idle))):
                if self._idle[i][0] is index or self._idle[i][0] == index:
                    return self._idle.pop(i)[1]
        return open_reader(index)

    def give_back(self, index: VideoIndex, reader: VideoReader | TileReader) -> None:
        with self._lock:
            self._idle.append((index, reader))
            surplus = self._idle[:-_MAX_IDLE]
            del self._idle[:-_MAX_IDLE]
        for _, old in surplus:
            old.close()


_POOL = _Pool()


@contextlib.contextmanager
def borrow_reader(index: VideoIndex) -> Iterator[VideoReader | TileReader]:
    """Lends a reader for `index`, to be used by one thread; one that failed is not lent again."""
    reader = _POOL.take(index)
    try:
        yield reader
    except BaseException:
        reader.close()
        raise
    _POOL.give_back(index, reader)
