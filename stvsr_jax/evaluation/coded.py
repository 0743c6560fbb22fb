"""Low resolution that went through a lossy video file, as people's videos have: `--degrade h264:28`.

The input frames of a clip are coded as one video, in memory, without the frames between them. If a window begins at another
frame than a multiple of its stride (the last one of `full`), its frames are coded as a second video.
"""

import collections
import math
import threading
from collections.abc import Callable, Sequence

import numpy as np

from stvsr_jax.data import compression

# Videos held decoded: readers are in one clip or two, each with at most two videos.
_MAX_VIDEOS = 4
_CHUNK = 8


def parse_coding(text: str) -> compression.H264:
    """Returns the settings that 'h264:CRF' means.

    Raises:
      ValueError: it means none.
    """
    codec, _, quality = text.partition(":")
    try:
        crf = float(quality)
    except ValueError:
        crf = math.nan
    if codec != "h264" or not 0 <= crf <= compression.MAX_CRF:
        raise ValueError(
            f"degrade={text!r} must be h264:CRF with a CRF from 0 to {compression.MAX_CRF}, like h264:28"
        )
    return compression.H264(crf)


def name_coding(settings: compression.H264) -> str:
    """Returns the 'h264:CRF' of settings."""
    return f"h264:{settings.crf:g}"


def describe_coding(settings: compression.H264) -> str:
    """Returns what tables say about coded low resolution."""
    return f"x264 (crf {settings.crf:g}, {settings.preset}, 4:2:0, given frames as one video)"


class VideoCache:
    """The decoded videos that were used last; for all clips of a data set, and for many threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._videos = collections.OrderedDict()

    def get(self, key: tuple, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns the video of that key; make it if it is not held."""
        with self._lock:  # also while it is made: other readers are about to ask for the same
            if key not in self._videos:
                while len(self._videos) >= _MAX_VIDEOS:
                    self._videos.popitem(last=False)
                self._videos[key] = make()
            self._videos.move_to_end(key)
            return self._videos[key]


class CodedClip:
    """A low-resolution clip. A read of every n-th frame comes from a coded video of every n-th frame.

    Args:
      name: unique among the clips that share `cache`.
      num_frames, height, width: of the clip.
      read: returns frames by number, uint8 [N, H, W, 3].
      settings: of the encoder.
      cache: shared by the clips of a data set.
    """

    def __init__(
        self,
        name: str,
        *,
        num_frames: int,
        height: int,
        width: int,
        read: Callable[[Sequence[int]], np.ndarray],
        settings: compression.H264,
        cache: VideoCache,
    ):
        self.name, self.num_frames, self.height, self.width = name, num_frames, height, width
        self.settings = settings
        self._read, self._cache = read, cache

    @property
    def scenes(self) -> tuple[tuple[int, int], ...]:
        return ((0, self.num_frames),)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Returns the frames of a window, at least two, uint8 [N, H, W, 3]; raises ValueError unless evenly spaced."""
        first, stride = indices[0], indices[1] - indices[0]
        if list(indices) != list(range(first, first + stride * len(indices), stride)):
            raise ValueError(f"frames {list(indices)} of {self.name} are not evenly spaced")
        numbers = range(first % stride, self.num_frames, stride)
        video = self._cache.get((self.name, stride, numbers.start), lambda: self._code(numbers))
        start = first // stride
        return video[start : start + len(indices)]

    def _code(self, numbers: Sequence[int]) -> np.ndarray:
        frames = (
            frame for i in range(0, len(numbers), _CHUNK) for frame in self._read(numbers[i : i + _CHUNK])
        )
        video = np.empty((len(numbers), self.height, self.width, 3), np.uint8)
        for position, frame in enumerate(compression.code(frames, self.settings)):
            video[position] = frame
        return video
