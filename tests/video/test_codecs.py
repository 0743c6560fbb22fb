"""Choices of codecs: what is impossible is named before anything is computed."""

from fractions import Fraction

import av
import pytest

from stvsr_jax.video import codecs
from stvsr_jax.video.encoding import VideoFormat
from stvsr_jax.video.output_file import OutputFile


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h264", 99, None), "crf=99 must lie in \\[0, 51\\]"),
        (("av1", -1, None), "crf=-1"),
        (("ffv1", 10, None), "crf=10: ffv1 has no such setting"),
        (("cinepak", None, None), "codec 'cinepak'"),
        (("av1", None, "yuv444p"), "pixel_format=yuv444p: av1 takes yuv420p, yuv420p10le"),
        (("av1", None, None, "slow"), "preset=slow: av1 takes 13, 12"),
        (("prores", None, None, "slow"), "preset=slow: prores has no such setting"),
    ],
)
def test_impossible_choices_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        codecs.check_codec(*arguments)


def test_every_default_is_a_choice(monkeypatch):
    monkeypatch.setattr(codecs, "list_present", lambda: list(codecs.CODECS))
    for name, codec in codecs.CODECS.items():
        assert codec.deep_format in codec.pixel_formats
        assert {"h264": "yuv420p"}.get(name, codec.pixel_formats[0]) == codec.pixel_formats[0]
        codecs.check_codec(name, codec.crf, codec.deep_format, codec.options.get("preset"))


def test_an_encoder_that_ffmpeg_lacks_is_named_with_those_it_has(monkeypatch):
    assert {"h264", "hevc", "av1", "ffv1", "prores"} <= set(codecs.list_present())
    monkeypatch.setattr(av, "codecs_available", {"libx264", "ffv1"})
    with pytest.raises(
        ValueError, match="h264_nvenc: the FFmpeg here has no encoder .* has those of h264, ffv1"
    ):
        codecs.check_codec("h264_nvenc", None, None)


def test_hardware_that_is_missing_is_told_from_a_container_that_does_not_fit(tmp_path):
    missing = [name for name in codecs.list_present() if codecs.CODECS[name].is_hardware and not _opens(name)]
    for name in missing:
        video = VideoFormat(192, 192, rate=Fraction(25), time_base=Fraction(1, 25), codec=name)
        with pytest.raises(ValueError, match=f"codec {name}: .*needs hardware .* in software there are h264"):
            OutputFile(tmp_path / "a.mp4", video)
    assert codecs.explain_failure("h264") == "" and list(tmp_path.iterdir()) == []


def test_a_picture_that_is_too_small_is_no_fault_of_the_hardware(tmp_path):
    if "h264_nvenc" not in codecs.list_present():
        pytest.skip("the FFmpeg here lacks it")
    video = VideoFormat(128, 192, rate=Fraction(25), time_base=Fraction(1, 25), codec="h264_nvenc")
    with pytest.raises(ValueError, match="codec h264_nvenc: a picture of 192x128 .* needs 160x160 pixels$"):
        OutputFile(tmp_path / "a.mp4", video)


def _opens(name):
    context = av.CodecContext.create(codecs.CODECS[name].encoder, "w")
    context.width = context.height = 256
    context.pix_fmt, context.time_base = codecs.CODECS[name].pixel_formats[0], Fraction(1, 25)
    try:
        context.open()
    except (av.FFmpegError, ValueError):
        return False
    return True
