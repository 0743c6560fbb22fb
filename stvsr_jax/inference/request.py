"""What is asked for, and what that means for one input: checked before anything is computed."""

import dataclasses
import math
import pathlib
from fractions import Fraction

from stvsr_jax import models
from stvsr_jax.inference import predictor, tile_size, work_folder
from stvsr_jax.video import (
    codecs,
    encoding,
    hardware_decoding,
    hdr,
    scene_cuts,
    sequential_reader,
    timecode,
    writers,
)

DEFAULT_SPACE = 4.0
DEFAULT_TIME = 2
# A finished segment is safe from a crash; each begins with a key frame. At most so many frames and pixels.
_SEGMENT_FRAMES = 60
_SEGMENT_PIXELS = 2**28
# FFmpeg's fractions.
_LARGEST = 2**31 - 1
LARGEST_SIDE = 2**16 - 1
# Frames per second; the headers of files fail at a tenth of it.
_SLOWEST = Fraction(1, 86400)


@dataclasses.dataclass(frozen=True)
class Request:
    """One input, one output and how to make it.

    Attributes:
      input: video file or folder of pictures.
      output: video file, or (without suffix) folder of PNGs.
      as_pictures: the output is a folder of PNGs, whatever its name.
      space: enlargement, at least 1; None is 4 unless `size` is given.
      size: (H', W') instead of `space`.
      time: output frames per input frame; None is 2 unless `fps` is given.
      fps: output frames per second instead of `time`.
      tile: longest tile side in input pixels; 0 takes whole frames, None chooses by memory.
      codec: name in `codecs.CODECS`.
      crf: quality, smaller is better; None is nearly lossless.
      preset: speed against size, of the codec's; None is its usual one.
      pixel_format: of the codec's; None is its usual one.
      overwrite: whether to replace an output that exists.
      max_frames: use only this many input frames.
      preview: use only the first seconds of the input.
      scene_threshold: smallest change of the picture (0..255) that can be a scene cut; 0 looks for none.
      input_fps: rate of a folder of pictures or a raw stream.
      segment: output frames after which what is done is safe; None chooses.
      compare: also write input and output side by side, as .png or video.
      batch: windows that go to a device together; None chooses by their size.
      decoder: of a video, a name in `hardware_decoding.DECODERS`; the output is the same with each.
    """

    input: pathlib.Path
    output: pathlib.Path
    as_pictures: bool = False
    space: float | None = None
    size: tuple[int, int] | None = None
    time: int | None = None
    fps: Fraction | None = None
    tile: int | None = None
    codec: str = "h264"
    crf: int | None = None
    preset: str | None = None
    pixel_format: str | None = None
    overwrite: bool = False
    max_frames: int | None = None
    preview: Fraction | None = None
    scene_threshold: float = scene_cuts.DEFAULT_THRESHOLD
    input_fps: Fraction | None = None
    segment: int | None = None
    compare: pathlib.Path | None = None
    batch: int | None = None
    decoder: str = hardware_decoding.SOFTWARE

    @property
    def makes_pictures(self) -> bool:
        """Whether the output is a folder of PNGs."""
        return self.as_pictures or writers.is_picture_folder(self.output)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A request that can be carried out.

    Attributes:
      request: what is asked for.
      info: what the input is.
      out_size: (H', W').
      time: output frames per input frame, or None with `fps`.
      fps: output frames per second, or None.
      video: format of the output, if it is a video.
      input_frames: how many input frames will be read, as far as can be known.
      output_frames: how many output frames come of them.
      segment: output frames after which what is done is safe.
      remarks: what the output cannot keep of the input, and what the user may not expect; one line each.
    """

    request: Request
    info: sequential_reader.VideoInfo
    out_size: tuple[int, int]
    time: int | None
    fps: Fraction | None
    video: encoding.VideoFormat
    input_frames: int
    output_frames: int
    segment: int
    remarks: tuple[str, ...]


def check(request: Request) -> None:
    """Checks what needs neither the input nor the network.

    Raises:
      ValueError: a value is impossible, or two contradict each other.
    """
    for name in ("max_frames", "preview", "input_fps", "fps", "segment", "batch"):
        value = getattr(request, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be positive")
    for name in ("input_fps", "fps"):
        value = getattr(request, name)
        if value is not None and value < _SLOWEST:
            raise ValueError(f"{name}={value} is less than a frame a day")
    for one, other in (("space", "size"), ("time", "fps")):
        if getattr(request, one) is not None and getattr(request, other) is not None:
            raise ValueError(f"--{one} and --{other} exclude each other")
    if request.size is not None and min(request.size) < 2:
        raise ValueError(f"size={request.size[1]}x{request.size[0]} must be at least 2x2")
    if not 0 <= request.scene_threshold <= 255:
        raise ValueError(f"scene_threshold={request.scene_threshold} must lie in [0, 255]")
    tile_size.check_tile(request.tile)
    hardware_decoding.check_decoder(request.decoder)
    codecs.check_codec(request.codec, request.crf, request.pixel_format, request.preset)


def check_outputs(request: Request) -> None:
    """Checks that the outputs can be written.

    Raises:
      ValueError: they exist, or are the input or each other, or their folder cannot be written.
    """
    for output in filter(None, (request.output, request.compare)):
        if not output.name:
            raise ValueError(f"output {output} names no file")
        if output.resolve() == request.input.resolve():
            raise ValueError(f"output {output} is the input")
        is_folder = output == request.output and request.makes_pictures
        may_exist = request.overwrite or work_folder.is_being_finished(request.output)
        writers.check_output(output, overwrite=may_exist, is_folder=is_folder)
    if request.compare and request.compare.resolve() == request.output.resolve():
        raise ValueError(f"--compare {request.compare} is the output")


def make_plan(request: Request, model_name: str) -> Plan:
    """Reads the input's facts and decides everything else.

    Raises:
      ValueError: the input cannot be read, or the network cannot do what is asked for.
    """
    check(request)
    info = sequential_reader.probe(request.input, rate=request.input_fps)
    hardware_decoding.check_input(request.input, info.stream_index, request.decoder, has_alpha=info.has_alpha)
    space = DEFAULT_SPACE if request.space is None else request.space
    fps = request.fps
    time = (DEFAULT_TIME if request.time is None else request.time) if fps is None else None
    if fps is not None and models.contract_of(model_name).steps is not None:
        time, fps = _whole_ratio(fps, info, model_name), None
    predictor.check_request(model_name, space=space, time=1 if time is None else time)
    if request.size is None:
        out_size = predictor.output_size(info.height, info.width, space)
    else:
        out_size = request.size
        predictor.check_size(model_name, info.height, info.width, out_size)
    if max(out_size) > LARGEST_SIDE:
        raise ValueError("output frames of {1}x{0} are too large".format(*out_size))
    input_frames = _expected_frames(request, info)
    if fps is None:
        output_frames = input_frames * time
    else:
        output_frames = math.ceil(input_frames / info.rate * fps)
    video = _video_format(request, info, out_size, time, fps)
    return Plan(
        request,
        info,
        out_size,
        time,
        fps,
        video,
        input_frames,
        output_frames,
        request.segment or min(max(_SEGMENT_PIXELS // (out_size[0] * out_size[1]), 8), _SEGMENT_FRAMES),
        tuple(_remarks(request, info, fps, video)),
    )


def _whole_ratio(fps, info, model_name):
    contract = models.contract_of(model_name)
    ratio = fps / info.rate
    if ratio not in contract.frame_counts:
        rates = " or ".join(str(count * info.rate) for count in contract.frame_counts)
        raise ValueError(
            f"fps={fps}: {model_name} makes {contract.name_counts()} of each, {rates} per second here"
            f"{predictor.suggest_others()}"
        )
    if not info.is_constant_rate:
        ways = ", or ".join(["--time", *models.list_free()])
        raise ValueError(f"fps={fps}: the input's rate varies; use {ways}")
    return int(ratio)


def _expected_frames(request, info):
    counts = [info.frame_count]
    if request.max_frames is not None:
        counts.append(request.max_frames)
    if request.preview is not None:
        counts.append(math.ceil(request.preview * info.rate))
    return max(1, min(counts))


def _video_format(request, info, out_size, time, fps):
    rate = info.rate * time if fps is None else fps
    is_constant = info.is_constant_rate or fps is not None
    time_base = 1 / rate if is_constant else info.time_base / time
    if max(rate.numerator, rate.denominator) > _LARGEST:
        raise ValueError(f"{rate} output frames per second are beyond what a video file can say")
    if max(time_base.numerator, time_base.denominator) > _LARGEST:
        time_base = Fraction(1, 10**6)  # of an input that counts nanoseconds
    aspect = info.sample_aspect_ratio
    if request.size is not None:
        stretch = Fraction(out_size[1] * info.height, out_size[0] * info.width)
        # Rounding a side to a whole pixel is no change of shape.
        is_rounding = abs(out_size[0] * info.width / info.height - out_size[1]) < max(
            1, info.width / info.height
        )
        aspect = aspect if is_rounding else (aspect / stretch).limit_denominator(1000)
    return encoding.VideoFormat(
        *out_size,
        rate=rate,
        time_base=time_base,
        codec=request.codec,
        crf=request.crf,
        preset=request.preset,
        pixel_format=request.pixel_format,
        is_deep=info.bit_depth > 8,
        colour_tags=info.colour_tags,
        hdr=info.hdr,
        sample_aspect_ratio=aspect,
        metadata=info.metadata,
        language=info.language,
        timecode=(timecode.rescale(info.timecode, info.rate, rate) or "") if info.is_constant_rate else "",
    )


def _remarks(request, info, fps, video):
    if not info.is_constant_rate and fps is None:
        yield "the frame rate varies: output frames keep the times of the input"
    if breaks := len(info.timeline.shifts) - 1:
        places = "in one place" if breaks == 1 else f"in {breaks} places"
        yield f"the timestamps start again or leap {places}: the parts follow each other"
    if info.unread_files:
        files = "a file is" if info.unread_files == 1 else f"{info.unread_files} files are"
        yield f"{files} put behind another in the input and not read: enlarge them apart, or join them with FFmpeg's concat"
    if info.is_interlaced:
        yield "the input is interlaced and is deinterlaced"
    if info.has_alpha:
        yield "the input is transparent in places: it is shown on black"
    is_8_bits = request.makes_pictures or not any(
        deep in (request.pixel_format or codecs.CODECS[request.codec].deep_format) for deep in ("10", "16")
    )
    if info.bit_depth > 8 and is_8_bits:
        yield f"the input has {info.bit_depth} bits per component; the output has 8"
    encoder = codecs.CODECS[request.codec].encoder
    if info.hdr.is_static and (request.makes_pictures or hdr.encoder_parameters(encoder, info.hdr) is None):
        what = "a folder of PNGs" if request.makes_pictures else request.codec
        yield f"{what} cannot hold the input's HDR10 metadata (mastering display, brightest pixels): it is left out"
    for name in info.hdr.dynamic:
        yield f"the input's {name} metadata is left out"
    if info.timecode and (request.makes_pictures or not video.timecode):
        yield f"the time code {info.timecode} is left out"
