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


def encode(workers, cuts, *, video=VIDEO, count=12, segment=60):
    timer = stages.Timer("encode", workers)
    encoder = segment_encoder.SegmentEncoder(
        video, has_global_header=True, workers=workers, segment=segment, timer=timer
    )
    segments = []
    for n, frame in enumerate(frames(count, video)):
        if n in cuts:
            segments.append(encoder.cut())
        encoder.add(frame, n, 1)
    segments.append(encoder.cut())
    found = [[(p.pts, p.duration, bytes(p)) for p in segment.result()] for segment in segments]
    encoder.close()
    assert timer.usage(1.0).items == count
    return found


def test_segments_side_by_side_are_those_encoded_alone():
    alone = encode(1, (5, 9))
    assert encode(3, (5, 9)) == alone
    assert [sorted(pts for pts, _, _ in segment) for segment in alone] == [
        list(range(5)),
        list(range(5, 9)),
        list(range(9, 12)),
    ]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_any_number_of_encoders_makes_the_same_bytes(codec, monkeypatch):
    monkeypatch.setattr(segment_encoder, "_WAITING_BYTES", 0)  # frames wait, as where they are large
    video = VideoFormat(80, 112, rate=RATE, time_base=1 / RATE, codec=codec)
    alone, few, many = (
        encode(workers, range(0, 90, 6), video=video, count=90, segment=6) for workers in (1, 3, 12)
    )
    assert len(alone) == 16 and sum(map(len, alone)) == 90
    assert few == alone and many == alone


def test_all_encoders_are_fed(monkeypatch):
    """Frames come in order: enough must wait for the last encoder to begin before the first one ends."""
    monkeypatch.setattr(segment_encoder, "_WAITING_BYTES", 0)
    together = threading.Barrier(6)
    stops = {20 * number + place for number, place in enumerate((17, 14, 11, 8, 4, 0))}

    class Encoder:
        def __init__(self, video, *, has_global_header):
            pass

        def encode(self, frame, pts, duration):
            if pts in stops:
                together.wait(timeout=10)  # until all six are so far
            return []

        def flush(self):
            return []

    monkeypatch.setattr(encoding, "VideoEncoder", Encoder)
    assert encode(6, range(20, 120, 20), count=120, segment=20) == [[]] * 6


def test_a_segment_may_be_empty():
    assert [len(segment) for segment in encode(2, (0, 5))] == [0, 5, 7]


def test_what_the_encoder_refuses_comes_out():
    small = VideoFormat(32, 32, rate=RATE, time_base=1 / RATE, codec="hevc")
    encoder = segment_encoder.SegmentEncoder(
        small, has_global_header=True, workers=1, segment=9, timer=stages.Timer("encode")
    )
    encoder.add(frames(1, small)[0], 0, 1)
    with pytest.raises(ValueError, match="too small for hevc"):
        encoder.cut().result()
    with pytest.raises(ValueError, match="too small for hevc"):
        encoder.add(frames(1, small)[0], 1, 1)
    encoder.close()


def test_closing_leaves_no_thread_behind():
    encoder = segment_encoder.SegmentEncoder(
        VIDEO, has_global_header=True, workers=2, segment=9, timer=stages.Timer("encode", 2)
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


GIB = 2**30


def choose(height, width, cores, codec="h264", memory=0):
    video = VideoFormat(height, width, rate=RATE, time_base=1 / RATE, codec=codec)
    return segment_encoder.choose_workers(video, 60, cores=cores, memory=memory)


def test_cores_and_memory_bound_how_many_go_side_by_side():
    assert [choose(720, 1280, cores) for cores in (1, 2, 8, 16, 64)] == [1, 1, 2, 4, 4]
    assert choose(1080, 1920, 64) == 2 and choose(2160, 3840, 64) == 1
    assert choose(720, 1280, 64, "av1") == 2


def test_many_cores_with_much_memory_run_more():
    assert [choose(720, 1280, cores, memory=400 * GIB) for cores in (16, 32, 64, 128)] == [4, 4, 8, 16]
    assert [choose(1080, 1920, cores, memory=400 * GIB) for cores in (16, 32, 64)] == [2, 4, 8]
    assert choose(2160, 3840, 64, memory=400 * GIB) == 8
    assert [choose(1080, 1920, cores, "hevc", 400 * GIB) for cores in (16, 64)] == [2, 4]
    assert choose(720, 1280, 64, "av1", 400 * GIB) == 2  # not measured
    # 140 frames of 3.1 MB for each of them, in a sixteenth of what there is.
    assert [choose(1080, 1920, 64, memory=gib * GIB) for gib in (16, 32, 64)] == [2, 4, 8]


@pytest.mark.parametrize("cores", range(2, 17))
def test_small_machines_stay_as_they_are(cores):
    for height, width in ((720, 1280), (1080, 1920), (2160, 3840)):
        for codec in ("h264", "hevc"):
            assert choose(height, width, cores, codec, 16 * GIB) == choose(height, width, cores, codec)
