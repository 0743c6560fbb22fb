"""Writes frames to a video file or to a folder of PNGs.

A file is written under a temporary name beside its final one and renamed when complete, so the final name
never holds half a video. Pixel formats with halved chroma need even sizes: an odd last row or column is left
out there (FFV1 and PNG keep every pixel).
"""

import dataclasses
import os
import pathlib
import re
import shutil
import tempfile
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from stvsr_jax.inference import colour, remux

# Container facts that are not the user's, or that the muxer writes itself.
_OWN_METADATA = ("major_brand", "minor_version", "compatible_brands", "encoder")


@dataclasses.dataclass(frozen=True)
class Codec:
    """How to encode.

    Attributes:
      encoder: FFmpeg's name.
      pixel_format: what it is fed.
      crf: default quality, smaller is better; None where there is no such setting.
      options: of the encoder.
      tag: code that players expect in MP4 and MOV, or None.
    """

    encoder: str
    pixel_format: str
    crf: int | None
    options: dict[str, str]
    tag: str | None = None


CODECS = {
    "h264": Codec("libx264", "yuv420p", 14, {"preset": "medium"}),
    "hevc": Codec("libx265", "yuv420p", 16, {"preset": "medium", "x265-params": "log-level=error"}, "hvc1"),
    "av1": Codec("libsvtav1", "yuv420p", 20, {"preset": "6"}),
    "ffv1": Codec("ffv1", "bgr0", None, {"level": "3"}),
    "prores": Codec("prores_ks", "yuv422p10le", None, {"profile": "3"}),
}
MAX_CRF = {"h264": 51, "hevc": 51, "av1": 63}


@dataclasses.dataclass(frozen=True)
class VideoFormat:
    """What to write.

    Attributes:
      height: rows of the frames given.
      width: columns of the frames given.
      rate: frames per second, exact; the mean if it varies.
      time_base: seconds; every frame time is rounded to a multiple.
      codec: name in CODECS.
      crf: quality, None for the codec's default.
      colour_tags: tags of the input.
      sample_aspect_ratio: width of a pixel over its height.
      metadata: title and so on.
      language: of the picture, three letters, empty if unknown.
    """

    height: int
    width: int
    rate: Fraction
    time_base: Fraction
    codec: str = "h264"
    crf: int | None = None
    colour_tags: colour.ColourTags = colour.PICTURES
    sample_aspect_ratio: Fraction = Fraction(1)
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    language: str = ""


def check_target(path: pathlib.Path, *, overwrite: bool) -> None:
    """Checks that an output can be written.

    Raises:
      ValueError: it exists and `overwrite` is false, or its folder is missing or not writable.
    """
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"output {path} exists; --overwrite replaces it")
    if path.is_dir() and path.suffix:
        raise ValueError(f"output {path} is a folder")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"output folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"output folder {folder} is not writable")


def is_picture_folder(path: pathlib.Path) -> bool:
    """Whether an output name means a folder of PNGs: an existing folder or a name without suffix."""
    return path.is_dir() or not path.suffix


class VideoWriter:
    """Encodes frames into a file; a context manager that completes the file, or removes it after an error.

    Args:
      path: final name; its suffix chooses the container.
      video: what to write.
      source: input file whose sound, subtitles and chapters are carried over, or None.
      origin: seconds of the source's clock that are time 0.
      is_trimmed: whether to end them with the picture.

    Attributes:
      notes: remarks on streams that could not be copied and on cropping, one line each.

    Raises:
      ValueError: the container does not exist or does not hold the codec, or the quality is impossible.
    """

    def __init__(
        self,
        path: pathlib.Path,
        video: VideoFormat,
        *,
        source: pathlib.Path | None = None,
        origin: Fraction = Fraction(0),
        is_trimmed: bool = False,
    ):
        self.notes = []
        self._path = path
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
        self._video = video
        self._is_trimmed = is_trimmed
        self._durations = {}  # stamp -> duration, for packets that leave the encoder later
        self._last_stamp = None
        self._end = Fraction(0)
        self._sides = None
        self._container = None
        options = encoder_options(video.codec, video.crf)
        try:
            self._open(CODECS[video.codec], options, source, origin)
        except (av.FFmpegError, ValueError, OSError) as error:
            self.abort()
            raise ValueError(f"output {path} cannot be written with codec {video.codec}: {error}") from error

    def _open(self, codec, options, source, origin):
        video = self._video
        muxer = {"movflags": "+faststart"} if self._path.suffix.lower() in (".mp4", ".mov", ".m4v") else {}
        os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder reports to stderr otherwise
        self._container = av.open(str(self._partial), "w", container_options=muxer)
        is_rgb = av.VideoFormat(codec.pixel_format).is_rgb
        self._size = (video.height, video.width) if is_rgb else (video.height // 2 * 2, video.width // 2 * 2)
        if min(self._size) < 2:
            raise ValueError(f"a picture of {video.width}x{video.height} is too small")
        if self._size != (video.height, video.width):
            self.notes.append(f"cropped to {self._size[1]}x{self._size[0]}: {video.codec} needs even sizes")
        self._tags = colour.output_tags(video.colour_tags)
        stream = self._container.add_stream(codec.encoder, rate=video.rate, options=options)
        stream.height, stream.width = self._size
        stream.pix_fmt = codec.pixel_format
        context = stream.codec_context
        context.time_base = video.time_base
        context.sample_aspect_ratio = video.sample_aspect_ratio
        if video.rate * video.time_base != 1:
            # With frames stored out of order MP4 would count a varying rate's durations in the wrong order.
            context.max_b_frames = 0
        if codec.tag and self._path.suffix.lower() in (".mp4", ".mov", ".m4v"):
            context.codec_tag = codec.tag
        if not is_rgb:
            context.colorspace, context.color_range = self._tags.matrix, colour.LIMITED_RANGE
            context.color_primaries, context.color_trc = self._tags.primaries, self._tags.transfer
        stream.disposition = av.stream.Disposition.default
        if video.language:
            stream.metadata["language"] = video.language
        self._stream = stream
        self._container.metadata.update({k: v for k, v in video.metadata.items() if k not in _OWN_METADATA})
        if source is not None:
            self._sides = remux.SideStreams(source, self._container, origin=origin)
            self.notes += self._sides.notes
            if not self._is_trimmed:
                self._copy_chapters(source)
        self._container.start_encoding()  # what the encoders and the container refuse, they refuse here

    def _copy_chapters(self, source):
        with av.open(str(source)) as container:
            if chapters := container.chapters():
                self._container.set_chapters(chapters)

    def write(self, image: np.ndarray, time: Fraction, duration: Fraction) -> None:
        """Appends a frame.

        Args:
          image: uint8 [H, W, 3].
          time: when it is shown, seconds; must rise.
          duration: for how long, seconds.
        """
        base = self._video.time_base
        stamp = round(time / base)
        if self._last_stamp is not None:
            stamp = max(stamp, self._last_stamp + 1)
        self._last_stamp = stamp
        self._durations[stamp] = max(1, round(duration / base))
        self._end = max(self._end, time + duration)
        frame = colour.rgb_to_frame(image[: self._size[0], : self._size[1]], self._stream.pix_fmt, self._tags)
        frame.pts, frame.time_base = stamp, base
        self._mux(self._stream.encode(frame))

    def _mux(self, packets):
        for packet in packets:
            if packet.pts in self._durations:
                packet.duration = self._durations.pop(packet.pts)
            if self._sides is not None:
                self._sides.mux_until(packet.dts * packet.time_base)
            self._container.mux_one(packet)

    def close(self) -> None:
        """Completes the file and gives it its name; removes it if that fails."""
        try:
            self._mux(self._stream.encode(None))
            if self._sides is not None:
                self._sides.mux_until(self._end if self._is_trimmed else None)
                self._sides.finish()
                self._sides.close()
            self._container.close()
            os.replace(self._partial, self._path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Removes what has been written."""
        if self._sides is not None:
            self._sides.close()
        if self._container is not None:
            try:
                self._container.close()
            except (av.FFmpegError, ValueError, OSError):
                pass  # a half-written file need not be closed in order: it is deleted next
        self._partial.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self.close()
        else:
            self.abort()


class PictureWriter:
    """Writes frames as 00000000.png, 00000001.png ... into a folder; a context manager like `VideoWriter`.

    The folder appears, or its numbered PNGs are replaced, when all are written; other files are left alone.
    """

    def __init__(self, path: pathlib.Path):
        self.notes = []
        self._path = path
        partial = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        self._partial = pathlib.Path(partial)
        self._count = 0

    def write(self, image: np.ndarray, time: Fraction, duration: Fraction) -> None:
        """Appends a frame, uint8 [H, W, 3]; times do not matter to pictures."""
        del time, duration
        Image.fromarray(image).save(self._partial / f"{self._count:08d}.png", compress_level=1)
        self._count += 1

    def close(self) -> None:
        """Puts the pictures in place."""
        self._path.mkdir(exist_ok=True)
        for old in self._path.glob("*.png"):
            if re.fullmatch(r"[0-9]{8}\.png", old.name):
                old.unlink()
        for new in sorted(self._partial.iterdir()):
            os.replace(new, self._path / new.name)
        self._partial.rmdir()

    def abort(self) -> None:
        """Removes what has been written."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:
            self.close()
        else:
            self.abort()


def encoder_options(codec: str, crf: int | None) -> dict[str, str]:
    """Returns the encoder's options.

    Raises:
      ValueError: unknown codec, or a quality that it does not have.
    """
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r} is not one of {sorted(CODECS)}")
    options = dict(CODECS[codec].options)
    if codec in MAX_CRF:
        crf = CODECS[codec].crf if crf is None else crf
        if not 0 <= crf <= MAX_CRF[codec]:
            raise ValueError(f"crf={crf} must lie in [0, {MAX_CRF[codec]}] for {codec}")
        options["crf"] = str(crf)
    elif crf is not None:
        raise ValueError(f"crf={crf}: {codec} has no such setting")
    return options
