"""The codecs by name: encoders in software, and those in hardware that FFmpeg knows and this machine may have.

A hardware encoder is used only if it is named, and never replaced by another. Its bytes may differ from one run to the
next; so a job that was stopped and gone on with plays the same, but need not be the same file.
"""

import dataclasses

import av


@dataclasses.dataclass(frozen=True)
class Codec:
    """How to encode.

    Attributes:
      encoder: FFmpeg's name.
      pixel_formats: what it may be fed; the first is the default for 8 bits.
      deep_format: the default for more than 8 bits.
      crf: default quality, smaller is better; None where there is no such setting.
      max_crf: worst quality.
      options: of the encoder.
      tag: code that players expect in MP4 and MOV, or None.
      smallest: rows and columns that it needs.
      parameters: name of the option that holds the encoder's own parameters, or None.
      smallest_parameters: more of them where a side has no more than `smallest`, or None.
      side_by_side: how many encoders may run at a time: they keep many cores busy, or take much memory.
      cores_each: where there are more than `side_by_side` times so many cores and memory enough, one encoder runs for so
        many; None where that has not been measured.
      frames_held: memory of a running encoder, in frames as it is given them.
      threads: of an encoder; 0 is FFmpeg's choice, by the number of cores.
      quality: name of the option for `crf`.
      presets: values of the option "preset", the fastest and the slowest among them.
      is_hardware: it is a part of a GPU or processor.
    """

    encoder: str
    pixel_formats: tuple[str, ...]
    deep_format: str
    crf: int | None
    max_crf: int | None
    options: dict[str, str]
    tag: str | None = None
    smallest: int = 2
    parameters: str | None = None
    smallest_parameters: str | None = None
    side_by_side: int = 2
    cores_each: int | None = None
    frames_held: int = 200
    threads: int = 0
    quality: str = "crf"
    presets: tuple[str, ...] = ()
    is_hardware: bool = False


_YUV_8 = ("yuv420p", "yuv422p", "yuv444p")
_YUV_10 = ("yuv420p10le", "yuv422p10le", "yuv444p10le")
_X26X = "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()


def _nvenc(encoder, formats, deep_format, crf, tag=None):
    presets = tuple(f"p{n}" for n in range(1, 8))
    options = {"preset": "p5", "tune": "hq", "rc": "constqp"}
    return Codec(
        encoder,
        formats,
        deep_format,
        crf,
        51,
        options,
        tag,
        smallest=160,
        quality="qp",
        presets=presets,
        is_hardware=True,
    )


def _qsv(encoder, formats, crf, tag=None):
    return Codec(
        encoder,
        formats,
        formats[-1],
        crf,
        51,
        {"preset": "medium"},
        tag,
        smallest=32,
        quality="global_quality",
        presets=tuple(_X26X[2:9]),
        is_hardware=True,
    )


def _videotoolbox(encoder, formats, tag=None):
    # Constant quality of 75 of 100, in FFmpeg's units of 1/118.
    options = {"flags": "+qscale", "global_quality": str(75 * 118)}
    return Codec(encoder, formats, formats[-1], None, None, options, tag, smallest=32, is_hardware=True)


# A job that was stopped and gone on with must give the file of one that was not: every encoder in software here gives
# the same bytes every time. x264 with its macroblock tree would not (x264 165 on AVX-512): they depend on what was in
# its memory before.
CODECS = {
    # Few players and no browser decode H.264 with 10 bits, so that has to be asked for. On what the networks make "faster"
    # takes as many bytes as "medium" for the same PSNR (docs/performance.md). With more threads motion reaches less far
    # and the cores do more: 24 take 2.5 % more bytes than 8 and 10 % more time. And 8 give the same bytes on any machine.
    "h264": Codec(
        "libx264",
        _YUV_8 + _YUV_10,
        "yuv420p",
        14,
        51,
        {"preset": "faster", "x264-params": "mbtree=0"},
        parameters="x264-params",
        side_by_side=4,
        cores_each=8,
        frames_held=110,
        threads=8,
        presets=tuple(_X26X),
    ),
    "hevc": Codec(
        "libx265",
        _YUV_8 + _YUV_10,
        "yuv420p10le",
        16,
        51,
        {"preset": "medium", "x265-params": "log-level=error"},
        "hvc1",
        parameters="x265-params",
        cores_each=16,
        frames_held=200,
        smallest=64,  # below that x265 writes past its memory, which ends the process, or not
        # Beside a single row or column of coding tree units (64 pixels each) x265 4.2 predicts from memory that it has
        # not set: the packets depend on what was there before.
        smallest_parameters="ctu=32",
        presets=tuple(_X26X),
    ),
    "av1": Codec(
        "libsvtav1",
        ("yuv420p", "yuv420p10le"),
        "yuv420p10le",
        20,
        63,
        {"preset": "6"},
        parameters="svtav1-params",
        presets=tuple(map(str, range(13, -1, -1))),
    ),
    "ffv1": Codec(
        "ffv1", ("bgr0", "gbrp10le", "gbrp16le", *_YUV_8, *_YUV_10), "gbrp16le", None, None, {"level": "3"}
    ),
    "prores": Codec("prores_ks", ("yuv422p10le", "yuv444p10le"), "yuv422p10le", None, None, {"profile": "3"}),
    "h264_nvenc": _nvenc("h264_nvenc", ("yuv420p", "yuv444p"), "yuv420p", 16),
    "hevc_nvenc": _nvenc("hevc_nvenc", ("yuv420p", "p010le", "yuv444p"), "p010le", 18, "hvc1"),
    "av1_nvenc": _nvenc("av1_nvenc", ("yuv420p", "p010le"), "p010le", 30),
    "h264_qsv": _qsv("h264_qsv", ("nv12",), 16),
    "hevc_qsv": _qsv("hevc_qsv", ("nv12", "p010le"), 18, "hvc1"),
    "h264_videotoolbox": _videotoolbox("h264_videotoolbox", ("nv12",)),
    "hevc_videotoolbox": _videotoolbox("hevc_videotoolbox", ("nv12", "p010le"), "hvc1"),
}
PIXEL_FORMATS = tuple(sorted({name for codec in CODECS.values() for name in codec.pixel_formats}))


def list_present() -> list[str]:
    """Returns the codecs whose encoders FFmpeg has here; hardware may still be missing."""
    return [name for name, codec in CODECS.items() if codec.encoder in av.codecs_available]


def check_codec(codec: str, crf: int | None, pixel_format: str | None, preset: str | None = None) -> None:
    """Checks the choice of a codec.

    Raises:
      ValueError: an unknown codec, one that FFmpeg does not have here, or a quality, preset or pixel format that it
        does not have.
    """
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r} is not one of {sorted(CODECS)}")
    chosen = CODECS[codec]
    if codec not in (present := list_present()):
        raise ValueError(
            f"codec {codec}: the FFmpeg here has no encoder {chosen.encoder}; it has those of {', '.join(present)}"
        )
    if pixel_format is not None and pixel_format not in chosen.pixel_formats:
        raise ValueError(f"pixel_format={pixel_format}: {codec} takes {', '.join(chosen.pixel_formats)}")
    if preset is not None and preset not in chosen.presets:
        known = f"takes {', '.join(chosen.presets)}" if chosen.presets else "has no such setting"
        raise ValueError(f"preset={preset}: {codec} {known}")
    if crf is None:
        return
    if chosen.max_crf is None:
        raise ValueError(f"crf={crf}: {codec} has no such setting")
    if not 0 <= crf <= chosen.max_crf:
        raise ValueError(f"crf={crf} must lie in [0, {chosen.max_crf}] for {codec}")


def explain_failure(codec: str) -> str:
    """Returns why the encoder of a codec may not start, '' for one in software."""
    if not CODECS[codec].is_hardware:
        return ""
    others = ", ".join(name for name in list_present() if not CODECS[name].is_hardware)
    return f" (it needs hardware and a driver that are not here, or are busy; in software there are {others})"
