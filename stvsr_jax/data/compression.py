"""What H.264 makes of frames: they are encoded as one video in memory, and decoded again.

libx264 with 4:2:0 chroma and one thread. The macroblock tree is off: its results vary from run to run on some processors.
So the same frames and settings give the same pixels every time. Colours are converted by `colour`.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np

from stvsr_jax.video import colour

# Of x264, fastest first; those that are slower cost more than they change.
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow")
MAX_CRF = 51
_RATE = 25  # frames a second; x264's choice of qualities hardly depends on it


@dataclasses.dataclass(frozen=True)
class H264:
    """Settings of the encoder.

    Attributes:
      crf: constant rate factor, from 0 (lossless) to 51; x264's own default is 23.
      preset: one of `PRESETS`.
      gop: a key frame comes at least every so many frames.
    """

    crf: float
    preset: str = "medium"
    gop: int = 250

    def __post_init__(self):
        if not 0 <= self.crf <= MAX_CRF:  # false for nan
            raise ValueError(f"crf={self.crf:g} must be from 0 to {MAX_CRF}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r} is not one of {', '.join(PRESETS)}")
        if self.gop != int(self.gop) or self.gop < 1:
            raise ValueError(f"gop={self.gop} must be a whole number from 1")


def code(frames: Iterable[np.ndarray], settings: H264) -> Iterator[np.ndarray]:
    """Yields each frame as it looks after coding; a few are held, however many there are.

    Args:
      frames: uint8 [H, W, 3] RGB, all of one size. An odd last row or column is doubled for the encoder.
      settings: of the encoder.
    """
    size, encoder, converter = None, None, None
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1

    def decode(packets):
        nonlocal converter
        for packet in packets:
            for decoded in decoder.decode(packet):
                converter = converter or colour.RgbConverter(colour.read_tags(decoded))
                yield converter.to_rgb(decoded)[: size[0], : size[1]]

    for number, frame in enumerate(frames):
        if encoder is None:
            size = frame.shape[:2]
            encoder = _make_encoder(size, settings)
        padded = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        picture = colour.rgb_to_frame(padded, "yuv420p", colour.PICTURES)
        picture.pts, picture.time_base = number, encoder.time_base
        yield from decode(encoder.encode(picture))
    if encoder is not None:
        yield from decode([*encoder.encode(None), None])


def _make_encoder(size: tuple[int, int], settings: H264) -> av.VideoCodecContext:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = (math.ceil(side / 2) * 2 for side in size)
    encoder.pix_fmt = "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(_RATE), Fraction(1, _RATE)
    encoder.thread_count = 1
    encoder.gop_size = settings.gop
    tags = colour.PICTURES
    encoder.colorspace, encoder.color_range = tags.matrix, colour.LIMITED_RANGE
    encoder.color_primaries, encoder.color_trc = tags.primaries, tags.transfer
    encoder.options = {
        "preset": settings.preset,
        "crf": f"{settings.crf:g}",
        "x264-params": "mbtree=0",
    }
    return encoder
