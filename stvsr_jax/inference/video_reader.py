"""Frames of a video file or a folder of pictures, in order, as RGB with their times.

`probe_video` and `probe_pictures` check an input and describe it; `read_frames` streams it. Pictures come
upright: the rotation that phones store beside the picture is applied, so the output needs none. Video of more
than 8 bits comes with 16, interlaced video deinterlaced.
"""

import dataclasses
import pathlib
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import av.filter
import numpy as np

from stvsr_jax.data import frame_folder, media
from stvsr_jax.inference import colour, pictures, timing


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What an input is.

    Attributes:
      path: the file or folder.
      height: rows of a frame, upright.
      width: columns of a frame, upright.
      rate: frames per second, exact; the mean when it varies.
      is_constant_rate: whether frames lie on a grid of `rate`.
      time_base: seconds per unit of the stream's time stamps.
      frame_count: how many frames there are, from counting packets (rarely a few off).
      origin: seconds of the file's clock that are time 0.
      colour_tags: colour tags.
      sample_aspect_ratio: width of a pixel over its height.
      orientation: (transpose, flip rows, flip columns) that make a decoded frame upright, in this order.
      is_interlaced: whether the first frame says so.
      has_alpha: whether the first picture is transparent somewhere.
      bit_depth: bits per component in the file.
      metadata: title and so on.
      language: of the video stream, three letters, empty if unknown.
      stream_index: of the video stream, None for pictures.
      pictures: files in order, for a folder.
    """

    path: pathlib.Path
    height: int
    width: int
    rate: Fraction
    is_constant_rate: bool = True
    time_base: Fraction = Fraction(1, 90000)
    frame_count: int = 0
    origin: Fraction = Fraction(0)
    colour_tags: colour.ColourTags = colour.PICTURES
    sample_aspect_ratio: Fraction = Fraction(1)
    orientation: tuple[bool, bool, bool] = (False, False, False)
    is_interlaced: bool = False
    has_alpha: bool = False
    bit_depth: int = 8
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    language: str = ""
    stream_index: int | None = None
    pictures: tuple[pathlib.Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class TimedFrame:
    """One picture and when it is shown.

    Attributes:
      image: uint8 or uint16 [H, W, 3], RGB.
      time: seconds.
      duration: seconds until the next frame, or the end.
    """

    image: np.ndarray
    time: Fraction
    duration: Fraction


def probe(path: pathlib.Path, *, rate: Fraction | None = None) -> VideoInfo:
    """Describes a video file or a folder of pictures.

    Args:
      path: file or folder.
      rate: frames per second; needed for pictures, allowed for raw streams without time stamps.

    Raises:
      ValueError: the input is missing, empty, not a video, or `rate` does not fit it.
      NotImplementedError: its colour matrix is not supported.
    """
    if not path.exists():
        raise ValueError(f"input {path} does not exist")
    return probe_pictures(path, rate=rate) if path.is_dir() else probe_video(path, rate=rate)


def probe_pictures(folder: pathlib.Path, *, rate: Fraction | None) -> VideoInfo:
    """Describes a folder of equally sized pictures, ordered by the numbers in their names (2 before 10)."""
    files = pictures.list_pictures(folder)
    if not files:
        raise ValueError(
            f"input folder {folder} holds no pictures ({', '.join(sorted(frame_folder.IMAGE_SUFFIXES))})"
        )
    if rate is None:
        raise ValueError(f"input {folder} is a folder of pictures: its frame rate is needed (--input_fps)")
    height, width = pictures.read_size(files[0])
    for file in files[1:]:
        size = pictures.read_size(file)
        if size != (height, width):
            raise ValueError(f"input picture {file} is {size[1]}x{size[0]}; the first is {width}x{height}")
    return VideoInfo(
        folder,
        height,
        width,
        rate,
        frame_count=len(files),
        time_base=1 / rate,
        has_alpha=pictures.has_alpha(files[0]),
        pictures=tuple(files),
    )


def probe_video(path: pathlib.Path, *, rate: Fraction | None = None) -> VideoInfo:
    """Describes a video file: decodes its first frame and reads the time stamps of all packets."""
    if path.stat().st_size == 0:
        raise ValueError(f"input {path} is empty (0 bytes)")
    try:
        with media.open_to_read(path) as container:
            stream = _best_video_stream(container, path)
            first = next(decode(container, stream), None)
            origin = max(Fraction(container.start_time or 0, av.time_base), Fraction(0))
            described = dict(
                guesses=(stream.guessed_rate, stream.average_rate, stream.base_rate),
                sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
                metadata=dict(container.metadata),
                language=stream.language or "",
                stream_index=stream.index,
                time_base=stream.time_base,
            )
        stamps, count = _scan_packets(path, described["stream_index"])
    except av.FFmpegError as error:
        raise ValueError(f"input {path} is not a video that can be read: {error.strerror}") from error
    if first is None:
        raise ValueError(f"input {path}: no frame of its video stream can be decoded")

    guesses = described.pop("guesses")
    if stamps and rate is not None:
        raise ValueError(f"input {path} has time stamps; its frame rate cannot be set to {rate}")
    if not stamps:  # raw streams; what their headers say, else the 25 that FFmpeg assumes
        constant = rate or next((guess for guess in guesses if guess), Fraction(25))
    else:
        constant = timing.find_constant_rate(stamps, described["time_base"], guesses)
    mean = next((guess for guess in guesses[1:] if guess), Fraction(25))
    if constant is None and stamps[-1] > stamps[0]:
        mean = Fraction(len(stamps) - 1) / ((stamps[-1] - stamps[0]) * described["time_base"])

    orientation = read_orientation(first)
    height, width = first.height, first.width
    aspect = described.pop("sample_aspect_ratio")
    if orientation[0]:
        height, width, aspect = width, height, 1 / aspect
    return VideoInfo(
        path,
        height,
        width,
        rate=constant or mean.limit_denominator(100000),
        is_constant_rate=constant is not None,
        frame_count=count,
        origin=origin,
        colour_tags=colour.read_tags(first),
        sample_aspect_ratio=aspect,
        orientation=orientation,
        is_interlaced=first.interlaced_frame,
        has_alpha=any(component.is_alpha for component in first.format.components),
        bit_depth=max(component.bits for component in first.format.components),
        **described,
    )


def read_frames(
    info: VideoInfo, *, limit: int | None = None, seconds: Fraction | None = None
) -> Iterator[TimedFrame]:
    """Streams the frames of an input.

    Args:
      info: from `probe`.
      limit: stop after this many frames.
      seconds: stop at this time after the first frame.

    Yields:
      Frames in order. The clip's last frame is held as long as the file says, or one frame.
    """
    pending = None
    first_time = None
    for number, (image, time, own_duration) in enumerate(_timed_images(info)):
        if pending is not None:
            yield TimedFrame(pending[0], pending[1], time - pending[1])
            pending = None
        first_time = time if first_time is None else first_time
        if (limit is not None and number >= limit) or (seconds is not None and time - first_time >= seconds):
            return
        pending = (image, time, own_duration)
    if pending is not None:
        yield TimedFrame(*pending)


def decode(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Decodes a stream in display order, skipping packets that are damaged."""
    stream.thread_type = "AUTO"
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def deinterlace(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Makes one whole frame of each frame's two fields (FFmpeg's bwdif); progressive frames stay as they are.

    Every frame comes out with its time stamp.
    """
    graph = None
    for frame in frames:
        if graph is None:
            graph = av.filter.Graph()
            source = graph.add_buffer(template=stream)
            # One frame per frame, only those marked as interlaced.
            graph.link_nodes(
                source, graph.add("bwdif", "mode=0:deint=1"), graph.add("buffersink")
            ).configure()
        graph.push(frame)
        yield from _pull(graph, stream.time_base)
    if graph is not None:
        graph.push(None)
        yield from _pull(graph, stream.time_base)


def _pull(graph, time_base):
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if frame.pts is not None:  # the filter counts twice as fast
            frame.pts = round(frame.pts * frame.time_base / time_base)
        yield frame


def read_orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Returns (transpose, flip rows, flip columns) that make a frame upright, from its display matrix.

    Rotations that are no multiple of 90 degrees count as none.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return False, False, False
    # Row vectors: (x, y) is shown at (a x + c y, b x + d y), 16.16 fixed point.
    a, b, _, c, d = struct.unpack("=9i", bytes(side_data))[:5]
    if b == c == 0 and a and d:
        return False, d < 0, a < 0
    if a == d == 0 and b and c:
        return True, b < 0, c < 0
    return False, False, False


def make_upright(image: np.ndarray, orientation: tuple[bool, bool, bool]) -> np.ndarray:
    """Applies an orientation to [H, W, 3]."""
    transpose, flip_rows, flip_columns = orientation
    if transpose:
        image = image.transpose(1, 0, 2)
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _timed_images(info: VideoInfo) -> Iterator[tuple[np.ndarray, Fraction, Fraction]]:
    """Yields ([H, W, 3], time, duration claimed by the file)."""
    if info.pictures:
        for number, file in enumerate(info.pictures):
            yield pictures.read_picture(file), number / info.rate, 1 / info.rate
        return
    clock = timing.Clock(info.time_base, info.rate, info.is_constant_rate, info.origin)
    size = (info.width, info.height) if info.orientation[0] else (info.height, info.width)
    with media.open_to_read(info.path) as container:
        decoded = decode(container, container.streams[info.stream_index])
        if info.is_interlaced:
            decoded = deinterlace(decoded, container.streams[info.stream_index])
        frames = ((frame.pts, frame) for frame in decoded)
        for stamp, frame in timing.restore_stamps(frames):
            duration = 1 / info.rate
            if not info.is_constant_rate and frame.duration:
                duration = frame.duration * (frame.time_base or info.time_base)
            rgb = colour.frame_to_rgb(frame, info.colour_tags, size=size, is_deep=info.bit_depth > 8)
            image = make_upright(rgb, info.orientation)
            yield image, clock.time(stamp), duration


def _best_video_stream(container: av.container.InputContainer, path: pathlib.Path) -> av.VideoStream:
    """Returns the stream that a player would choose; cover pictures do not count."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise ValueError(f"input {path} has no video stream")
    best = container.streams.best("video")
    return best if best in streams else streams[0]


def _scan_packets(path: pathlib.Path, stream_index: int) -> tuple[list[int], int]:
    """Returns the ascending time stamps of a stream's packets (empty if any lacks one) and their number."""
    stamps, count = [], 0
    with media.open_to_read(path) as container:
        for packet in container.demux(container.streams[stream_index]):
            if packet.size == 0 or packet.is_discard:
                continue
            count += 1
            if packet.pts is not None:
                stamps.append(packet.pts)
    return (sorted(stamps) if len(stamps) == count else []), count
