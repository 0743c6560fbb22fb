"""Choices of codecs."""

from fractions import Fraction

import av
import numpy as np
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


class X265:
    """As x265 is with a stream of one or two frames: their decoding times are what lay in memory."""

    pix_fmt = "yuv420p10le"

    def __init__(self):
        self._stamps = []

    def encode(self, frame):
        if frame is not None:
            self._stamps.append(frame.pts)
            return []
        packets = [av.Packet(b"x") for _ in self._stamps]
        for packet, packet.pts in zip(packets, self._stamps, strict=True):
            packet.dts = -9007336695791648
        return packets


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_frames_of_hevc_have_decoding_times(count):
    video = VideoFormat(32, 32, rate=Fraction(25), time_base=Fraction(1, 25), codec="hevc")
    encoder = video_encoder.VideoEncoder(video, has_global_header=False)
    encoder._context = X265()
    for stamp in range(count):
        assert not list(encoder.encode(np.zeros((32, 32, 3), np.uint8), stamp, 1))
    assert [(packet.pts, packet.dts) for packet in encoder.flush()] == [(n, n) for n in range(count)]
