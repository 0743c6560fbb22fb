"""Encoders and their settings."""

import ctypes
import platform
from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.video import codecs, encoding
from stvsr_jax.video.encoding import VideoFormat


@pytest.mark.parametrize(
    ("pixel_format", "size"),
    [("yuv420p", (36, 50)), ("yuv422p", (37, 50)), ("yuv444p", (37, 51)), ("yuv420p10le", (36, 50))],
)
def test_sizes_are_cut_as_far_as_the_chroma_asks(pixel_format, size):
    video = VideoFormat(37, 51, rate=Fraction(25), time_base=Fraction(1, 25), pixel_format=pixel_format)
    assert video.encoded_size == size


@pytest.mark.parametrize("size", [(62, 200), (200, 48)])
def test_pictures_that_x265_cannot_hold_are_refused(size):
    for codec, is_refused in (("hevc", True), ("h264", False), ("av1", False)):
        video = VideoFormat(*size, rate=Fraction(25), time_base=Fraction(1, 25), codec=codec)
        context = av.CodecContext.create(codecs.CODECS[codec].encoder, "w")
        if is_refused:
            with pytest.raises(ValueError, match="too small for hevc, which needs 64x64"):
                encoding.configure(context, video)
        else:
            encoding.configure(context, video)


def test_presets_and_qualities_reach_the_encoder():
    def options(**kwargs):
        return encoding.encoder_options(
            VideoFormat(64, 96, rate=Fraction(25), time_base=Fraction(1, 25), **kwargs)
        )

    assert options()["preset"] == "faster" and options(preset="slow")["preset"] == "slow"
    assert options(codec="av1", preset="10", crf=33) == {"preset": "10", "crf": "33"}
    assert options(codec="h264_nvenc", crf=20)["qp"] == "20"
    assert options(codec="h264_nvenc")["qp"] == "16"
    assert "preset" not in options(codec="ffv1")


def test_cores_do_not_decide_the_bytes_of_h264(monkeypatch):
    """x264's own choice of threads goes by the cores, and its bytes by the threads."""
    seen = []
    real = encoding.configure

    def configure(context, video, **kwargs):
        real(context, video, **kwargs)
        seen.append((context.thread_count, str(context.thread_type)))

    monkeypatch.setattr(encoding, "configure", configure)
    encoding.VideoEncoder(
        VideoFormat(64, 96, rate=Fraction(25), time_base=Fraction(1, 25)), has_global_header=True
    )
    assert seen == [(8, "ThreadType.AUTO")]


def test_presets_are_taken_by_the_software_encoders():
    for name in ("h264", "hevc", "av1"):
        presets = codecs.CODECS[name].presets
        for preset in (presets[0], presets[-1]):
            video = VideoFormat(
                64, 96, rate=Fraction(25), time_base=Fraction(1, 25), codec=name, preset=preset
            )
            encoder = encoding.VideoEncoder(video, has_global_header=True)
            frame = encoding.FrameMaker(video).make(np.zeros((64, 96, 3), np.uint8))
            assert len([*encoder.encode(frame, 0, 1), *encoder.flush()]) == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc fills fresh memory on demand")
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (96, 64), (66, 66), (128, 192)])
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "ffv1", "prores"])
def test_packets_do_not_depend_on_what_the_memory_held(codec, size):
    # A resumed job would else end in another file: encoders in a long process get memory that was in use before.
    fill_memory = ctypes.CDLL(None).mallopt
    kind = -6  # M_PERTURB
    video = VideoFormat(*size, rate=Fraction(25), time_base=Fraction(1, 25), codec=codec)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (10, *size, 3), np.uint8)
    patches = noise[:, ::16, ::16].repeat(16, 1).repeat(16, 2)[:, : size[0], : size[1]]
    found = set()
    for pictures in (noise, patches):
        maker = encoding.FrameMaker(video)
        frames = [maker.make(picture) for picture in pictures]
        for byte in (1, 85, 170, 200):
            assert fill_memory(kind, byte) == 1
            try:
                encoder = encoding.VideoEncoder(video, has_global_header=True)
                packets = [p for i, frame in enumerate(frames) for p in encoder.encode(frame, i, 1)]
                found.add(tuple(bytes(packet) for packet in [*packets, *encoder.flush()]))
                del encoder
            finally:
                fill_memory(kind, 0)
    assert len(found) == 2
