"""HDR10's metadata in and out of streams."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.inference import request
from stvsr_jax.video import encoding, hdr, sequential_reader
from stvsr_jax.video.encoding import VideoFormat

HDR10 = hdr.Hdr(
    hdr.MasteringDisplay(
        red=(Fraction(68, 100), Fraction(32, 100)),
        green=(Fraction(265, 1000), Fraction(69, 100)),
        blue=(Fraction(15, 100), Fraction(6, 100)),
        white=(Fraction(3127, 10000), Fraction(329, 1000)),
        darkest=Fraction(1, 10000),
        brightest=Fraction(1000),
    ),
    (1000, 400),
)


def write(path, codec, metadata, *, size=(64, 96)):
    """Encodes three frames with the project's encoder."""
    video = VideoFormat(
        *size,
        Fraction(25),
        Fraction(1, 25),
        codec=codec,
        pixel_format="yuv420p10le",
        is_deep=True,
        hdr=metadata,
    )
    with av.open(str(path), "w") as container:
        options = encoding.encoder_options(video)
        stream = container.add_stream(encoding.CODECS[codec].encoder, rate=25, options=options)
        encoding.configure(stream.codec_context, video)
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 9000 * i, np.uint16), format="rgb48le")
            frame = frame.reformat(format="yuv420p10le")
            frame.pts = i
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            packet.dts = packet.pts
            container.mux(packet)
    return path


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
@pytest.mark.parametrize(
    "metadata",
    [HDR10, hdr.Hdr(HDR10.display), hdr.Hdr(light=(900, 0)), hdr.Hdr()],
    ids=["both", "display", "light", "none"],
)
def test_what_is_written_is_read(tmp_path, codec, metadata):
    found = sequential_reader.probe(write(tmp_path / "a.mkv", codec, metadata)).hdr
    assert found.light == metadata.light and (found.display is None) == (metadata.display is None)
    if metadata.display:
        for name in ("red", "green", "blue", "white"):
            pairs = zip(getattr(found.display, name), getattr(metadata.display, name), strict=True)
            assert all(abs(a - b) < 2e-5 for a, b in pairs)
        assert abs(found.display.darkest - metadata.display.darkest) < 1e-4
        assert abs(found.display.brightest - metadata.display.brightest) < 0.01


def test_settings_of_the_encoder_are_kept():
    video = VideoFormat(64, 96, Fraction(25), Fraction(1, 25), hdr=HDR10)
    assert encoding.encoder_options(video)["x264-params"].startswith(
        "mbtree=0:mastering-display=G(13250,34500)"
    )


def test_what_cannot_hold_it_is_named(tmp_path):
    source = write(tmp_path / "a.mkv", "hevc", HDR10)
    for output, codec, is_named in [
        ("b.mp4", "hevc", False),
        ("b.mp4", "av1", False),
        ("b.mkv", "ffv1", True),
        ("b.mov", "prores", True),
        ("pictures", "h264", True),
    ]:
        plan = request.make_plan(request.Request(source, tmp_path / output, codec=codec), "zooming_slowmo")
        assert any("HDR10" in remark for remark in plan.remarks) == is_named, (output, codec)
