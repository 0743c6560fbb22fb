"""Segments encoded side by side: the packets of each, in order, and errors."""

import concurrent.futures
import threading
from fractions import Fraction

import numpy as np
import pytest

from stvsr_jax import stages
from stvsr_jax.video import encoding, segment_encoder
from stvsr_jax.video.encoding import VideoFormat

RATE = Fraction(25)
VIDEO = VideoFormat(64, 96, rate=RATE, time_base=1 / RATE)


def frames(count, video=VIDEO):
    rng = np.random.default_rng(0)
    maker = encoding.FrameMaker(video)
    return [
        maker.make(image) for image in rng.integers(0, 256, (count, video.height, video.width, 3), np.uint8)
    ]


def encode(workers, cuts):
    timer = stages.Timer("encode", workers)
    encoder = segment_encoder.SegmentEncoder(VIDEO, has_global_header=True, workers=workers, timer=timer)
    segments = []
    for n, frame in enumerate(frames(12)):
        if n in cuts:
            segments.append(encoder.cut())
        encoder.add(frame, n, 1)
    segments.append(encoder.cut())
    found = [[(p.pts, p.duration, bytes(p)) for p in segment.result()] for segment in segments]
    encoder.close()
    assert timer.usage(1.0).items == 12
    return found


def test_segments_side_by_side_are_those_encoded_alone():
    alone = encode(1, (5, 9))
    assert encode(3, (5, 9)) == alone
    assert [sorted(pts for pts, _, _ in segment) for segment in alone] == [
        list(range(5)),
        list(range(5, 9)),
        list(range(9, 12)),
    ]


def test_a_segment_may_be_empty():
    assert [len(segment) for segment in encode(2, (0, 5))] == [0, 5, 7]


def test_what_the_encoder_refuses_comes_out():
    small = VideoFormat(32, 32, rate=RATE, time_base=1 / RATE, codec="hevc")
    encoder = segment_encoder.SegmentEncoder(
        small, has_global_header=True, workers=1, timer=stages.Timer("encode")
    )
    encoder.add(frames(1, small)[0], 0, 1)
    with pytest.raises(ValueError, match="too small for hevc"):
        encoder.cut().result()
    with pytest.raises(ValueError, match="too small for hevc"):
        encoder.add(frames(1, small)[0], 1, 1)
    encoder.close()


def test_closing_leaves_no_thread_behind():
    encoder = segment_encoder.SegmentEncoder(
        VIDEO, has_global_header=True, workers=2, timer=stages.Timer("encode", 2)
    )
    for n, frame in enumerate(frames(6)):
        encoder.add(frame, n, 1)
    ended = encoder.cut()
    encoder.add(frames(1)[0], 6, 1)
    before = threading.active_count()
    encoder.close()  # with a segment that nobody ended
    encoder.close()
    assert threading.active_count() <= before - 1
    try:
        assert len(ended.result()) == 6  # whole, or not at all
    except concurrent.futures.CancelledError:
        pass


def test_cores_and_memory_bound_how_many_go_side_by_side():
    def choose(height, width, cores, codec="h264"):
        video = VideoFormat(height, width, rate=RATE, time_base=1 / RATE, codec=codec)
        return segment_encoder.choose_workers(video, 60, cores=cores)

    assert [choose(720, 1280, cores) for cores in (1, 2, 8, 16, 64)] == [1, 1, 2, 4, 4]
    assert choose(1080, 1920, 64) == 2 and choose(2160, 3840, 64) == 1
    assert choose(720, 1280, 64, "av1") == 2
