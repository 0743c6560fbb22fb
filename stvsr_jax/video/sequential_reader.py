"""Frames of a video file or a folder of pictures, in order, as RGB with their times.

`probe_video` and `probe_pictures` check an input and describe it; `read_frames` streams it. Pictures come
upright: the rotation that phones store beside the picture is applied, so the output needs none. Video of more
than 8 bits comes with 16, interlaced video deinterlaced.
"""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import threading
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from stvsr_jax import stages
from stvsr_jax.files import IMAGE_SUFFIXES
from stvsr_jax.video import (
    animated_webp,
    colour,
    decoding,
    deinterlacing,
    hardware_decoding,
    media,
    picture_folder,
    timing,
)
from stvsr_jax.video.hdr import Hdr, read_hdr
from stvsr_jax.video.timeline import Timeline, scan_packets

_LEADING_FRAMES = 25  # are looked at for interlacing and transparency: some recordings begin without
_WORKERS = 4  # frames that are converted at a time


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What an input is.

    Attributes:
      path: the file or folder.
      height: rows of a frame, upright.
      width: columns of a frame, upright.
      rate: frames per second, exact; the mean when it varies.
      is_constant_rate: whether frames lie on a grid of `rate`.
      usual_step: seconds from one frame to the next where nothing is missing.
      time_base: seconds per unit of the stream's timestamps.
      frame_count: how many frames there are, from counting packets (rarely a few off).
      origin: seconds of the file's clock that are time 0.
      timeline: where its timestamps start again or leap.
      unread_files: how many files are put behind it in the same one, and are not read.
      colour_tags: colour tags.
      hdr: HDR metadata of the first frame.
      sample_aspect_ratio: width of a pixel over its height.
      orientation: (transpose, flip rows, flip columns) that make a decoded frame upright, in this order.
      is_interlaced: whether one of the first frames says so.
      has_alpha: whether one of the first pictures is transparent somewhere.
      bit_depth: bits per component in the file.
      metadata: title and so on.
      language: of the video stream, three letters, empty if unknown.
      timecode: SMPTE time code of the first frame, empty without.
      stream_index: of the video stream, None for pictures and animated WebP.
      pictures: files in order, for a folder.
    """

    path: pathlib.Path
    height: int
    width: int
    rate: Fraction
    is_constant_rate: bool = True
    usual_step: Fraction = Fraction(1, 25)
    time_base: Fraction = Fraction(1, 90000)
    frame_count: int = 0
    origin: Fraction = Fraction(0)
    timeline: Timeline = Timeline()
    unread_files: int = 0
    colour_tags: colour.ColourTags = colour.PICTURES
    hdr: Hdr = Hdr()
    sample_aspect_ratio: Fraction = Fraction(1)
    orientation: tuple[bool, bool, bool] = (False, False, False)
    is_interlaced: bool = False
    has_alpha: bool = False
    bit_depth: int = 8
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    language: str = ""
    timecode: str = ""
    stream_index: int | None = None
    pictures: tuple[pathlib.Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class TimedFrame:
    """One picture with its presentation time.

    Attributes:
      image: uint8 or uint16 [H, W, 3], RGB.
      time: presentation time, seconds.
      duration: seconds until the next frame, or the end.
      still: the part of `duration`, from its beginning, without motion; then it moves to the next frame.
    """

    image: np.ndarray
    time: Fraction
    duration: Fraction
    still: Fraction = Fraction(0)


def probe(path: pathlib.Path, *, rate: Fraction | None = None) -> VideoInfo:
    """Describes a video file or a folder of pictures.

    Args:
      path: file or folder.
      rate: frames per second; needed for pictures, allowed for raw streams without timestamps.

    Raises:
      ValueError: the input is missing, empty, not a video, or `rate` does not fit it.
      NotImplementedError: its colour matrix is not supported.
    """
    if not path.exists():
        raise ValueError(f"input {path} does not exist")
    if path.is_dir():
        return probe_pictures(path, rate=rate)
    return _probe_animation(path) if animated_webp.is_animated_webp(path) else probe_video(path, rate=rate)


def probe_pictures(folder: pathlib.Path, *, rate: Fraction | None) -> VideoInfo:
    """Describes a folder of equally sized pictures, ordered by the numbers in their names (2 before 10); see `probe`."""
    files = picture_folder.list_pictures(folder)
    if not files:
        raise ValueError(f"input folder {folder} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if rate is None:
        raise ValueError(f"input {folder} is a folder of pictures: its frame rate is needed (--input_fps)")
    headers = [picture_folder.read_header(file) for file in files]
    height, width = headers[0].height, headers[0].width
    for file, header in zip(files, headers, strict=True):
        if (header.height, header.width) != (height, width):
            raise ValueError(
                f"input picture {file} is {header.width}x{header.height}; the first is {width}x{height}"
            )
    return VideoInfo(
        folder,
        height,
        width,
        rate,
        usual_step=1 / rate,
        frame_count=len(files),
        time_base=1 / rate,
        has_alpha=picture_folder.is_transparent(files[0]),
        bit_depth=max(header.bit_depth for header in headers),
        pictures=tuple(files),
    )


def _probe_animation(path: pathlib.Path) -> VideoInfo:
    try:
        with Image.open(path) as picture:
            width, height = picture.size
        is_transparent = animated_webp.is_transparent(path)
        durations = animated_webp.read_durations(path)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"input {path} is not an animation that can be read: {error}") from error
    base = Fraction(1, 1000)
    pts = list(itertools.accumulate(durations, initial=0))
    constant = timing.find_constant_rate(pts, base, ())
    return VideoInfo(
        path,
        height,
        width,
        rate=constant or timing.mean_rate(pts, base),
        is_constant_rate=constant is not None,
        usual_step=1 / constant if constant else timing.usual_step(pts, base),
        time_base=base,
        frame_count=len(durations) + _repeats(durations[-1] * base, constant),
        has_alpha=is_transparent,
    )


def probe_video(path: pathlib.Path, *, rate: Fraction | None = None) -> VideoInfo:
    """Describes a video file: decodes its first frames and reads the timestamps of all packets; see `probe`."""
    if path.stat().st_size == 0:
        raise ValueError(f"input {path} is empty (0 bytes)")
    try:
        with media.open_to_read(path) as container:
            stream = decoding.best_video_stream(container)
            first, is_interlaced, is_transparent = _look_at_frames(container, stream)
            start_time = Fraction(container.start_time or 0, av.time_base)
            guesses = (stream.guessed_rate, stream.average_rate, stream.base_rate)
            aspect = stream.sample_aspect_ratio or Fraction(1)
            described = dict(
                metadata={k: v for k, v in container.metadata.items() if k.lower() != "timecode"},
                timecode=_read_timecode(stream, container),
                language=stream.language or "",
                stream_index=stream.index,
                time_base=stream.time_base,
            )
        scan = scan_packets(path, described["stream_index"])
    except av.FFmpegError as error:
        raise ValueError(f"input {path} is not a video that can be read: {error.strerror}") from error
    if first is None:
        raise ValueError(f"input {path}: no frame of its video stream can be decoded")
    time_base = described["time_base"]
    if scan.pts and rate is not None:
        raise ValueError(f"input {path} has timestamps; its frame rate cannot be set to {rate}")
    if not scan.pts:  # raw streams; what their headers say, else the 25 that FFmpeg assumes
        constant = rate or next((guess for guess in guesses if guess), Fraction(25))
    else:
        constant = timing.find_constant_rate(scan.pts, time_base, guesses)
    mean = next((guess for guess in guesses[1:] if guess), Fraction(25))
    if constant is None:
        mean = timing.mean_rate(scan.pts, time_base) or mean

    orientation = decoding.read_orientation(first)
    height, width = first.height, first.width
    if orientation[0]:
        height, width, aspect = width, height, 1 / aspect
    return VideoInfo(
        path,
        height,
        width,
        rate=constant or mean.limit_denominator(100000),
        is_constant_rate=constant is not None,
        usual_step=1 / constant if constant else timing.usual_step(scan.pts, time_base),
        frame_count=scan.count + (_repeats(scan.last_duration * time_base, constant) if scan.pts else 0),
        origin=timing.find_origin(start_time, scan.first * time_base),
        timeline=scan.timeline,
        unread_files=scan.unread_files,
        colour_tags=colour.read_tags(first),
        hdr=read_hdr(first),
        sample_aspect_ratio=aspect,
        orientation=orientation,
        is_interlaced=is_interlaced,
        has_alpha=is_transparent,
        bit_depth=max(component.bits for component in first.format.components),
        **described,
    )


def _look_at_frames(container, stream) -> tuple[av.VideoFrame | None, bool, bool]:
    """Returns the first frame, if there is one, and whether it or one soon after is interlaced, and transparent."""
    stream.thread_type = "AUTO"
    first, is_interlaced, is_transparent = None, False, False
    frames = decoding.decode(container.demux(stream), stream, skip_damaged=True)
    for frame in itertools.islice(frames, _LEADING_FRAMES):
        first = first or frame
        is_interlaced |= frame.interlaced_frame
        is_transparent |= colour.is_transparent(frame)
    return first, is_interlaced, is_transparent


def _read_timecode(*tagged) -> str:
    """Returns the time code of the first of a stream and a container that has one, else ''."""
    texts = (text for item in tagged for key, text in item.metadata.items() if key.lower() == "timecode")
    return next(texts, "")


def read_frames(
    info: VideoInfo,
    *,
    limit: int | None = None,
    seconds: Fraction | None = None,
    decoder: str = hardware_decoding.SOFTWARE,
) -> Iterator[TimedFrame]:
    """Streams the frames of an input.

    Args:
      info: from `probe`.
      limit: stop after this many frames.
      seconds: stop at this time after the first frame.
      decoder: of a video, a name in `hardware_decoding.DECODERS`.

    Yields:
      Frames in order. The clip's last frame is held as long as the file says, or one frame.
    """
    pending = None
    first_time = None
    for number, (image, time, own_duration) in enumerate(_hold_last(_timed_images(info, decoder), info)):
        if pending is not None:
            duration = time - pending[1]
            yield TimedFrame(*pending[:2], duration, timing.still_time(duration, info.usual_step))
            pending = None
        first_time = time if first_time is None else first_time
        if (limit is not None and number >= limit) or (seconds is not None and time - first_time >= seconds):
            return
        pending = (image, time, own_duration)
    if pending is not None:
        yield TimedFrame(*pending)


def _repeats(duration, rate):
    """Returns how often a picture of `duration` seconds is repeated at a constant `rate`; 0 if the rate varies."""
    return max(0, round(duration * rate) - 1) if rate else 0


def _hold_last(images, info):
    """Repeats the last picture at a constant rate for as long as it is shown: files of that rate have equal frames."""
    image = None
    for image, time, duration in images:
        yield image, time, info.usual_step if info.is_constant_rate else duration
    if image is not None and info.is_constant_rate:
        for n in range(1, 1 + _repeats(duration, info.rate)):
            yield image, time + n * info.usual_step, info.usual_step


def _timed_images(info: VideoInfo, decoder: str) -> Iterator[tuple[np.ndarray, Fraction, Fraction]]:
    """Yields ([H, W, 3], time, duration claimed by the file); several are converted at a time."""
    if info.stream_index is None and not info.pictures:
        time, durations = Fraction(0), animated_webp.read_durations(info.path)
        for image, duration in zip(animated_webp.read_images(info.path), durations, strict=True):
            yield image, time, duration * info.time_base
            time += duration * info.time_base
        return
    items = _decode(info, decoder)
    if info.pictures:
        items = ((file, n / info.rate, 1 / info.rate) for n, file in enumerate(info.pictures))
    own = threading.local()  # converters are for one thread
    convert = functools.partial(_convert, info, own)
    with contextlib.closing(stages.map_ahead(convert, items, workers=_WORKERS, ahead=_WORKERS)) as images:
        yield from images


def _convert(info, own, item):
    source, time, duration = item
    if info.pictures:
        image = picture_folder.read_picture(source)
        return colour.to_16_bits(image) if info.bit_depth > 8 else image, time, duration
    if not hasattr(own, "converter"):
        own.converter = colour.RgbConverter(info.colour_tags)
    size = (info.width, info.height) if info.orientation[0] else (info.height, info.width)
    rgb = own.converter.to_rgb(source, size=size, is_deep=info.bit_depth > 8)
    return decoding.make_upright(rgb, info.orientation), time, duration


def _decode(info, decoder):
    """Yields (frame, time, duration claimed by the file)."""
    clock = timing.Clock(info.time_base, info.usual_step, info.is_constant_rate, info.origin)
    with hardware_decoding.open_stream(info.path, info.stream_index, decoder) as (container, stream):
        decoded = hardware_decoding.decode(info.timeline.move(container.demux(stream)), stream, decoder)
        frames = ((f.pts, f) for f in deinterlacing.deinterlace(decoded, info.time_base))
        for pts, frame in timing.restore_pts(frames):
            duration = info.usual_step
            if pts is not None and frame.duration:  # of raw streams it is what FFmpeg assumes
                duration = frame.duration * (frame.time_base or info.time_base)
            yield frame, clock.time(pts), duration
