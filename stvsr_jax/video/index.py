"""The index of a video, for reading its frames at random: made once by decoding it all, and kept in a cache.

A video is decoded in full the first time it is seen. Only that gives its exact number of frames, and the scene cuts need
every frame anyway. The cache holds a JSON file and the thumbnails.

Many videos cannot be read at random in place: with one keyframe in 300 frames, a window of 7 costs the decoding of 150 on
average. If keyframes are far apart, pts do not identify frames, or frames are interlaced, the cache holds a lossless
copy as well, in which every frame is a keyframe: Ut Video in AVI. It decodes eight times faster than FFV1 and takes 1.4 to
1.8 times the space. Frames read from it have the same values, bit for bit.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from absl import logging
from tqdm import tqdm

from stvsr_jax import files, locks
from stvsr_jax.video import colour, decoding, deinterlacing, media, scene_cuts
from stvsr_jax.video.errors import OUT_OF_RESOURCES, ClipError
from stvsr_jax.video.random_reader import VideoIndex, VideoReader, shrink_upright

# Part of the cache's file names: raise it if the meaning of an entry changes.
_VERSION = 3
# Reading in place decodes half of this many frames for nothing, on average.
DEFAULT_MAX_KEYFRAME_GAP = 32
# Formats that Ut Video stores as they are; everything else is stored as the RGB it will be read as.
_COPIED_AS = {"yuv420p": "yuv420p", "yuvj420p": "yuv420p", "yuv422p": "yuv422p", "yuvj422p": "yuv422p"}
# Keyframes around which reading in place is tried out before it is relied on.
_PROBES = 8


def entry_of(path: Path, cache_dir: str | os.PathLike | None, max_keyframe_gap: int) -> Path:
    """Returns the path of a video's entry in the cache, without suffix; raises OSError if there is no such file."""
    status = path.stat()
    facts = [_VERSION, str(path), status.st_size, status.st_mtime_ns, max_keyframe_gap]
    return files.entry_path(cache_dir, "videos", facts)


def load_index(
    path: str | os.PathLike,
    *,
    cache_dir: str | os.PathLike | None = None,
    max_keyframe_gap: int = DEFAULT_MAX_KEYFRAME_GAP,
) -> tuple[VideoIndex, np.ndarray]:
    """Returns the index of a video and its thumbnails, from the cache or by decoding it once.

    Args:
      path: a video in any container and codec that PyAV reads.
      cache_dir: for the index, and the copy if one is needed; see `stvsr_jax.files`.
      max_keyframe_gap: videos with keyframes at most this many frames apart are read in place.

    Returns:
      The index, and the thumbnails of all frames, uint8 [num_frames, *scene_cuts.THUMBNAIL_SIZE, 3].

    Raises:
      FileNotFoundError: no such file.
      ValueError: max_keyframe_gap is below 1.
      ClipError: it is empty, damaged, cut short, changes its size, or has no video in it.
      OSError: the cache cannot be written, or the machine has run out of something.
    """
    path = Path(path).absolute()
    if max_keyframe_gap < 1:
        raise ValueError(f"max_keyframe_gap={max_keyframe_gap} must be at least 1")
    if not path.is_file():
        raise FileNotFoundError(f"no video file at {path}")
    status = path.stat()
    if status.st_size == 0:
        raise ClipError(f"{path} cannot be read as a video: it has zero bytes")
    entry = entry_of(path, cache_dir, max_keyframe_gap)
    if (known := _read_entry(entry)) is not None:
        return known
    with locks.in_turn(entry.with_suffix(".lock"), "another process that scans a video"):
        if (known := _read_entry(entry)) is not None:  # by now
            return known
        index, thumbnails = _scan(path, entry.with_suffix(".avi"), max_keyframe_gap)
        files.write_array(entry.with_suffix(".npy"), thumbnails)
        files.write_json(entry.with_suffix(".json"), index.to_json())
        return index, thumbnails


def _read_entry(entry: Path) -> tuple[VideoIndex, np.ndarray] | None:
    """Returns a video's entry in the cache, None if it is not complete."""
    known = files.read_json(entry.with_suffix(".json"))
    if known is None:
        return None
    index = VideoIndex.from_json(known)
    thumbnails = files.read_array(entry.with_suffix(".npy"))
    is_whole = thumbnails is not None and len(thumbnails) == index.num_frames and Path(index.media).is_file()
    return (index, thumbnails) if is_whole else None


def _scan(path: Path, copy: Path, max_keyframe_gap: int) -> tuple[VideoIndex, np.ndarray]:
    """Decodes a video once, or twice if reading it in place turns out not to be exact."""
    pts, keyframes, declared = _read_packets(path)
    ends = [*keyframes, len(pts)]
    gap = max((b - a for a, b in zip(ends[:-1], ends[1:], strict=True)), default=0)
    if keyframes and keyframes[0] == 0 and gap <= max_keyframe_gap:
        index, thumbnails, is_interlaced = _decode(path, None, declared, keyframes)
        if index.pts == pts and not is_interlaced and _reads_exactly(index, thumbnails):
            return index, thumbnails
        logging.info("%s cannot be read in place frame by frame", path)
    with files.replacing(copy) as draft:
        index, thumbnails, _ = _decode(path, draft, declared, ())
        logging.info("%s: lossless copy of %.0f MB in %s", path, draft.stat().st_size / 1e6, copy)
    return dataclasses.replace(index, media=str(copy)), thumbnails


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns the errors of reading a file into a ClipError, or an OSError if the machine is at fault."""
    try:
        yield
    except ClipError:
        raise
    except av.error.FFmpegError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise ClipError(f"{path} cannot be read as a video: {error.strerror or error}") from error
    except (ValueError, NotImplementedError, ArithmeticError) as error:  # of what a damaged header declares
        raise ClipError(f"{path} cannot be read as a video: {error}") from error


def _read_packets(path: Path) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Reads a video without decoding it.

    Returns:
      The pts of its frames in the order they are shown, the numbers of its keyframes in that order
      (both empty when packets carry no or repeated pts), and how many frames to expect.
    """
    pts, keys, count, last = [], [], 0, 0.0
    with _naming(path), media.open_to_read(path) as container:
        if all(map(decoding.is_cover, container.streams.video)):
            raise ClipError(f"{path} cannot be read as a video: it has no video stream")
        stream = decoding.best_video_stream(container)
        size = path.stat().st_size
        missing = max((entry.pos + entry.size for entry in stream.index_entries), default=0) - size
        if missing > 0:
            raise ClipError(
                f"{path} is cut short: its index refers to {missing:,} bytes past the end of the file"
            )
        first = (container.start_time or 0) / av.time_base
        # Of all streams: where sound or subtitles go on after the last frame, nothing is missing.
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base) - first)
            if packet.stream_index != stream.index or not packet.size or packet.is_discard:
                continue
            count += 1
            pts.append(packet.pts)
            keys.append(packet.is_keyframe)
        promised = (container.duration or 0) / av.time_base
        if last and promised > 1.1 * last + 1:
            logging.warning("%s may be cut short: %.1f of %.1f seconds are there", path, last, promised)
    if None in pts or len(set(pts)) < len(pts):
        return (), (), count
    order = np.argsort(pts)
    return tuple(pts[i] for i in order), tuple(int(n) for n, i in enumerate(order) if keys[i]), count


def _decode(
    path: Path, copy: Path | None, expected: int, keyframes: tuple[int, ...]
) -> tuple[VideoIndex, np.ndarray, bool]:
    """Decodes every frame of a video, writing a lossless copy, deinterlaced, to `copy` if that is not None.

    Returns:
      The index, the thumbnails, and whether a frame that was not deinterlaced is interlaced.
    """
    pts, thumbnails, converter, writer, size, damaged, is_interlaced = [], [], None, None, None, 0, False
    with contextlib.ExitStack() as stack:
        stack.enter_context(_naming(path))
        container = stack.enter_context(media.open_to_read(path))
        stream = decoding.best_video_stream(container)
        stream.thread_type = "AUTO"
        progress = stack.enter_context(
            tqdm(total=expected, desc=f"scanning {path.name}", unit="frame", leave=False, disable=None)
        )
        frames = decoding.decode(container.demux(stream), stream)
        for frame in frames if copy is None else deinterlacing.deinterlace(frames, stream.time_base):
            if converter is None:
                size = (frame.height, frame.width)
                tags = colour.read_tags(frame)
                converter = colour.RgbConverter(tags)
                orientation = decoding.read_orientation(frame)
                if copy is not None:
                    writer = stack.enter_context(_CopyWriter(copy, frame, converter, tags))
            if (frame.height, frame.width) != size:
                raise ClipError(
                    f"{path} changes size from {size[1]}x{size[0]} to {frame.width}x{frame.height} "
                    f"at frame {len(pts)}; a clip must keep one size"
                )
            thumbnails.append(shrink_upright(converter, frame, scene_cuts.THUMBNAIL_SIZE, orientation))
            if writer is not None:
                writer.add(frame)
            pts.append(frame.pts)
            damaged += frame.is_corrupt
            is_interlaced |= frame.interlaced_frame
            progress.update()
    if not pts:
        raise ClipError(f"{path} cannot be read as a video: it holds no frame that decodes")
    if damaged:
        logging.warning("%s: %d of %d frames are damaged", path, damaged, len(pts))
    if len(pts) < 0.95 * expected:
        logging.warning("%s: only %d of %d frames could be decoded", path, len(pts), expected)
    if copy is not None:
        pts, keyframes = range(len(pts)), range(len(pts))
    height, width = size[::-1] if orientation[0] else size
    index = VideoIndex(
        path=str(path),
        media=str(path),
        num_frames=len(pts),
        height=height,
        width=width,
        pts=tuple(pts),
        keyframes=tuple(keyframes),
        matrix=tags.matrix,
        is_full_range=tags.is_full_range,
        orientation=orientation,
    )
    return index, np.stack(thumbnails), is_interlaced


class _CopyWriter:
    """Writes frames to a lossless AVI in which frame i has pts i and is a keyframe."""

    def __init__(
        self, path: Path, like: av.VideoFrame, converter: colour.RgbConverter, tags: colour.ColourTags
    ):
        is_even = like.width % 2 == 0 and like.height % 2 == 0
        self._format = _COPIED_AS.get(like.format.name, "gbrp") if is_even else "gbrp"
        self._converter = converter
        self._range = colour.FULL_RANGE if tags.is_full_range else colour.LIMITED_RANGE
        self._count = 0
        self._path = path
        with self._failing_itself():
            self._container = media.open_to_write(path, format="avi")
            self._stream = self._container.add_stream("utvideo", rate=25, options={"pred": "left"})
        self._stream.width, self._stream.height, self._stream.pix_fmt = like.width, like.height, self._format

    def add(self, frame: av.VideoFrame) -> None:
        if self._format == "gbrp":
            copy = av.VideoFrame.from_ndarray(self._converter.to_rgb(frame), format="rgb24").reformat(
                format="gbrp"
            )
        else:
            # Naming the same range twice keeps `yuvj` samples as they are.
            same = {"src_color_range": self._range, "dst_color_range": self._range}
            copy = frame.reformat(format=self._format, **same)
        copy.pts, copy.time_base = self._count, Fraction(1, 25)
        copy.pict_type = av.video.frame.PictureType.NONE
        self._count += 1
        with self._failing_itself():
            self._container.mux(self._stream.encode(copy))

    def __enter__(self) -> "_CopyWriter":
        return self

    def __exit__(self, *exception) -> None:
        with self._failing_itself(), contextlib.closing(self._container):
            if exception[0] is None:
                self._container.mux(self._stream.encode(None))

    @contextlib.contextmanager
    def _failing_itself(self) -> Iterator[None]:
        """Keeps errors of writing, say on a full disk, apart from those of the video that is read."""
        try:
            yield
        except av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self._path)) from error


def _reads_exactly(index: VideoIndex, thumbnails: np.ndarray) -> bool:
    """Whether random reads give the same frames as decoding from the start, around some of the keyframes."""
    last = len(index.keyframes) - 1
    chosen = {index.keyframes[round(i * last / _PROBES)] for i in range(_PROBES + 1)}
    probes = {n for key in chosen for n in (key - 1, key, key + 1) if 0 <= n < index.num_frames}
    reader = VideoReader(index)
    try:
        # Backwards, so that every one is a seek.
        for n in sorted(probes, reverse=True):
            if not np.array_equal(reader.read_thumbnail(n, scene_cuts.THUMBNAIL_SIZE), thumbnails[n]):
                return False
    except (ValueError, av.error.FFmpegError):
        return False
    finally:
        reader.close()
    return True
