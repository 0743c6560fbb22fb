"""The index of a video, for reading its frames at random: made once by decoding it all, and kept in a cache.

A video is decoded in full the first time it is seen. Only that gives its exact number of frames, and the scene cuts need
every frame anyway. The cache holds a JSON file and the thumbnails.

Few videos can be read at random in place: with one keyframe in 250 frames, a window of 7 costs the decoding of 130 on
average. If keyframes are too far apart, pts do not identify frames, or frames are interlaced, the cache holds the frames
as well, in tiles (`tile_store`). Frames read from them have the same values, bit for bit.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from absl import logging
from tqdm import tqdm

from stvsr_jax import files
from stvsr_jax.video import (
    colour,
    decoding,
    deinterlacing,
    frame_parts,
    media,
    scan_cache,
    scene_cuts,
    tile_store,
)
from stvsr_jax.video.errors import OUT_OF_RESOURCES, ClipError
from stvsr_jax.video.random_reader import VideoIndex, VideoReader, shrink_upright

# A sample from tiles costs a tenth of the whole frames that are decoded for one in place.
DEFAULT_MAX_KEYFRAME_GAP = 1
# Where windows are read in order, few of the frames that are decoded in place are for nothing.
IN_ORDER_KEYFRAME_GAP = 32
# Formats whose planes are stored as they are; everything else is stored as the RGB it will be read as.
_STORED_AS = {name: name.replace("yuvj", "yuv") for name in frame_parts.PLANAR}
# Keyframes around which reading in place is tried out before it is relied on.
_PROBES = 8


def entry_of(path: Path, cache_dir: str | os.PathLike | None, max_keyframe_gap: int) -> Path:
    """Returns the path of a video's entry in the cache, without suffix; raises OSError if there is no such file."""
    status = path.stat()
    return scan_cache.entry_of(cache_dir, [str(path), status.st_size, status.st_mtime_ns, max_keyframe_gap])


def load_index(
    path: str | os.PathLike,
    *,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = 0.0,
    max_keyframe_gap: int = DEFAULT_MAX_KEYFRAME_GAP,
) -> tuple[VideoIndex, np.ndarray]:
    """Returns the index of a video and its thumbnails, from the cache or by decoding it once.

    Args:
      path: a video in any container and codec that PyAV reads.
      cache_dir: for the index, and the tiles if they are needed; see `stvsr_jax.files`.
      cache_gb: what all videos in the cache may take; see `scan_cache.tidy`.
      max_keyframe_gap: videos with keyframes at most this many frames apart are read in place.

    Returns:
      The index, and the thumbnails of all frames, uint8 [num_frames, *scene_cuts.THUMBNAIL_SIZE, 3].

    Raises:
      FileNotFoundError: no such file.
      ValueError: max_keyframe_gap is below 1.
      ClipError: it is empty, damaged, cut short, changes its size, or has no video in it.
      OSError: the cache cannot be written or is full, or the machine has run out of something.
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
    check_room = functools.partial(scan_cache.check_room, entry.parent, cache_gb)

    def scan():
        index, thumbnails = _scan(path, entry.with_suffix(".tiles"), max_keyframe_gap, check_room)
        return index.to_json(), thumbnails

    facts, thumbnails = scan_cache.load(entry, scan)
    return VideoIndex.from_json(facts), thumbnails


def _scan(
    path: Path, tiles: Path, max_keyframe_gap: int, check_room: Callable[[], None]
) -> tuple[VideoIndex, np.ndarray]:
    """Decodes a video once, or twice if reading it in place turns out not to be exact.

    Args:
      path: of the video.
      tiles: where they go, if they are needed.
      max_keyframe_gap: as of `load_index`.
      check_room: called now and then while tiles are written; makes room, or raises OSError.
    """
    check_room()
    pts, keyframes, declared = _read_packets(path)
    ends = [*keyframes, len(pts)]
    gap = max((b - a for a, b in zip(ends[:-1], ends[1:], strict=True)), default=0)
    if keyframes and keyframes[0] == 0 and gap <= max_keyframe_gap:
        index, thumbnails, is_interlaced = _decode(path, None, declared, keyframes, check_room)
        if index.pts == pts and not is_interlaced and _reads_exactly(index, thumbnails):
            return index, thumbnails
        logging.info("%s cannot be read in place frame by frame", path)
    with files.replacing(tiles) as draft:
        index, thumbnails, _ = _decode(path, draft, declared, (), check_room)
        check_room()
        logging.info("%s: %.0f MB of tiles in %s", path, draft.stat().st_size / 1e6, tiles)
    return dataclasses.replace(index, media=str(tiles)), thumbnails


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
    path: Path, tiles: Path | None, expected: int, keyframes: tuple[int, ...], check_room: Callable[[], None]
) -> tuple[VideoIndex, np.ndarray, bool]:
    """Decodes every frame of a video, writing its tiles, deinterlaced, to `tiles` if that is not None.

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
        for frame in frames if tiles is None else deinterlacing.deinterlace(frames, stream.time_base):
            if converter is None:
                size = (frame.height, frame.width)
                tags = colour.read_tags(frame)
                converter = colour.RgbConverter(tags)
                orientation = decoding.read_orientation(frame)
                if tiles is not None:
                    writer = stack.enter_context(_TileCopy(tiles, frame, converter, check_room))
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
    height, width = size[::-1] if orientation[0] else size
    index = VideoIndex(
        path=str(path),
        media=str(path),
        num_frames=len(pts),
        height=height,
        width=width,
        pts=tuple(pts) if tiles is None else (),
        keyframes=keyframes,
        matrix=tags.matrix,
        is_full_range=tags.is_full_range,
        orientation=orientation,
    )
    return index, np.stack(thumbnails), is_interlaced


class _TileCopy:
    """Writes the frames of a video as tiles."""

    def __init__(
        self, path: Path, like: av.VideoFrame, converter: colour.RgbConverter, check_room: Callable[[], None]
    ):
        size, steps = (like.height, like.width), frame_parts.PLANAR.get(like.format.name, (1, 1))
        is_whole = not any(side % step for side, step in zip(size, steps, strict=True))
        self._format = _STORED_AS.get(like.format.name, "rgb") if is_whole else "rgb"
        self._converter = converter
        self._writer = tile_store.TileWriter(path, self._format, size, check_room)

    def add(self, frame: av.VideoFrame) -> None:
        if self._format == "rgb":
            planes = self._converter.to_rgb(frame).transpose(2, 0, 1)
        else:
            planes = frame_parts.cut_planes(frame, (0, 0, frame.height, frame.width))
        self._writer.add(planes)

    def __enter__(self) -> "_TileCopy":
        self._writer.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._writer.__exit__(*exception)


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
