"""Encodes segments side by side: each stands alone and has an encoder and a thread of its own."""

import concurrent.futures
import queue
import threading

import av

from stvsr_jax import stages
from stvsr_jax.video import codecs, encoding
from stvsr_jax.video.encoding import VideoFormat

# Bytes of frames that wait for their encoder, at least.
_WAITING_BYTES = 2**27
# Frames of segments that are encoded at a time, in pixels, whatever the machine.
_ENCODED_PIXELS = 2**28
# Part of the memory that can be had for encoders beyond that.
_SHARE = 1 / 16
_POLL_SECONDS = 0.1


def choose_workers(video: VideoFormat, segment: int, *, memory: int = 0, cores: int | None = None) -> int:
    """Returns how many segments of so many frames to encode at a time.

    An encoder looks ahead before it begins and ends alone: in between it keeps many cores busy, but not then.

    Args:
      video: what to make.
      segment: frames of a segment.
      memory: bytes that can be had, for more encoders on many cores.
      cores: of the machine, by default those that this process may use.
    """
    cores, codec = cores or stages.count_cores(), codecs.CODECS[video.codec]
    usual = min(codec.side_by_side, cores // 4, _ENCODED_PIXELS // (segment * video.height * video.width))
    if codec.cores_each is None:
        return max(1, usual)
    frames_each = codec.frames_held + segment // 2
    room = int(_SHARE * memory) // (frames_each * _frame_bytes(video))
    return max(1, usual, min(cores // codec.cores_each, room))


def _frame_bytes(video):
    height, width = video.encoded_size
    return max(1, height * width * av.VideoFormat(video.encoded_format).padded_bits_per_pixel // 8)


class SegmentEncoder:
    """Takes the frames of segments in order, and gives the packets of each.

    Args:
      video: what to make.
      has_global_header: whether the file's format keeps what a decoder needs in its header.
      workers: segments at a time.
      segment: frames of a segment, at most.
      timer: of encoding.
    """

    def __init__(
        self, video: VideoFormat, *, has_global_header: bool, workers: int, segment: int, timer: stages.Timer
    ):
        self._video, self._has_global_header, self._timer = video, has_global_header, timer
        self._pool = concurrent.futures.ThreadPoolExecutor(workers)
        # Frames come in order, so the last of the encoders runs dry unless half a segment waits for each of the others.
        waiting = max(8, _WAITING_BYTES // _frame_bytes(video), segment * (workers - 1) // 2)
        self._room = threading.Semaphore(waiting)
        self._frames: queue.SimpleQueue | None = None  # of the segment that is being filled
        self._packets: concurrent.futures.Future | None = None
        self._failure: BaseException | None = None
        self._is_closed = False

    def add(self, frame: av.VideoFrame, pts: int, duration: int) -> None:
        """Appends a frame to the segment; waits while too many wait to be encoded."""
        while not self._room.acquire(timeout=_POLL_SECONDS):
            self._check()
        self._check()
        if self._frames is None:
            self._frames = queue.SimpleQueue()
            self._packets = self._pool.submit(self._encode, self._frames)
        self._frames.put((frame, pts, duration))

    def cut(self) -> concurrent.futures.Future:
        """Ends the segment and returns its packets-to-be, a list; the next frame begins another."""
        packets = self._packets
        if packets is None:
            packets = concurrent.futures.Future()
            packets.set_result([])
        else:
            self._frames.put(None)
        self._frames = self._packets = None
        return packets

    def close(self) -> None:
        """Ends all threads; what is not encoded yet never will be."""
        self._is_closed = True
        self.cut()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _check(self):
        if self._failure is not None:
            raise self._failure

    def _encode(self, frames):
        packets = []
        try:
            encoder = encoding.VideoEncoder(self._video, has_global_header=self._has_global_header)
            while (given := frames.get()) is not None:
                if self._is_closed:
                    break
                with self._timer.busy():
                    packets += encoder.encode(*given)
                del given
                self._room.release()
            if self._is_closed:
                raise concurrent.futures.CancelledError("the segment is not whole")
            with self._timer.busy(0):
                packets += encoder.flush()
        except BaseException as error:
            self._failure = error
            raise
        return packets
