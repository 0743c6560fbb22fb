"""Choices of codecs."""

from fractions import Fraction

import av
import pytest

from stvsr_jax.inference import video_encoder
from stvsr_jax.inference.video_encoder import VideoFormat


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h264", 99, None), "crf=99 must lie in \\[0, 51\\]"),
        (("av1", -1, None), "crf=-1"),
        (("ffv1", 10, None), "crf=10: ffv1 has no such setting"),
        (("cinepak", None, None), "codec 'cinepak'"),
        (("av1", None, "yuv444p"), "pixel_format=yuv444p: av1 takes yuv420p, yuv420p10le"),
    ],
)
def test_impossible_choices_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        video_encoder.check_codec(*arguments)


@pytest.mark.parametrize(
    ("pixel_format", "size"),
    [("yuv420p", (36, 50)), ("yuv422p", (37, 50)), ("yuv444p", (37, 51)), ("yuv420p10le", (36, 50))],
)
def test_sizes_are_cut_as_far_as_the_chroma_asks(pixel_format, size):
    video = VideoFormat(37, 51, rate=Fraction(25), time_base=Fraction(1, 25), pixel_format=pixel_format)
    assert video.encoded_size == size


def test_every_default_is_a_choice():
    for name, codec in video_encoder.CODECS.items():
        assert codec.deep_format in codec.pixel_formats
        video_encoder.check_codec(name, codec.crf, codec.deep_format)


@pytest.mark.parametrize("size", [(62, 200), (200, 48)])
def test_pictures_that_x265_cannot_hold_are_refused(size):
    for codec, is_refused in (("hevc", True), ("h264", False), ("av1", False)):
        video = VideoFormat(*size, rate=Fraction(25), time_base=Fraction(1, 25), codec=codec)
        context = av.CodecContext.create(video_encoder.CODECS[codec].encoder, "w")
        if is_refused:
            with pytest.raises(ValueError, match="too small for hevc, which needs 64x64"):
                video_encoder.configure(context, video)
        else:
            video_encoder.configure(context, video)
