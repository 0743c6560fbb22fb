"""The picture of a media file: found, decoded whole, upright."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from stvsr_jax.video import decoding, media


def flat_frame(tone, number, size=(32, 48)):
    frame = av.VideoFrame.from_ndarray(np.full((*size, 3), tone, np.uint8), format="rgb24")
    frame.pts, frame.time_base = number, Fraction(1, 25)
    return frame


def write(path, tones, *, codec="rawvideo", missing=(), cover=None):
    """Writes flat frames; those of the numbers `missing` as empty packets. A cover picture comes first."""
    with av.open(str(path), "w") as container:
        picture = None
        if cover is not None:
            picture = container.add_stream("png", rate=25)
            picture.height, picture.width, picture.pix_fmt = 64, 64, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = 32, 48
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        if picture:
            container.mux(picture.encode(flat_frame(cover, 0, (64, 64))) + picture.encode(None))
        for i, tone in enumerate(tones):
            for packet in stream.encode(flat_frame(tone, i)):
                if i in missing:
                    pts, base = packet.pts, packet.time_base
                    packet = av.Packet(b"")
                    packet.pts = packet.dts = pts
                    packet.time_base, packet.stream = base, stream
                container.mux(packet)
        container.mux(stream.encode(None))
    return path


def read(path, **options):
    with media.open_to_read(path) as container:
        stream = decoding.best_video_stream(container)
        frames = decoding.decode(container.demux(stream), stream, **options)
        return [(frame.time, int(frame.to_ndarray(format="rgb24").mean() + 0.5)) for frame in frames]


def test_empty_packets_repeat_the_frame_before(tmp_path):
    path = write(tmp_path / "a.nut", [10, 20, 30, 40, 50, 60], missing=(1, 2, 5))
    with av.open(str(path)) as container:
        assert sorted(packet.size == 0 for packet in container.demux(video=0)) == [False] * 3 + [True] * 4
    times, tones = zip(*read(path), strict=True)
    assert np.allclose(times, np.arange(6) / 25)
    assert np.abs(np.subtract(tones, [10, 10, 10, 40, 50, 50])).max() <= 1


def test_damaged_packets_are_left_out_or_an_error(tmp_path):
    path = write(tmp_path / "a.avi", [10, 20, 30], codec="png")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        second = [packet for packet in container.demux(video=0) if packet.size][1]
    data[second.pos + 8 : second.pos + 8 + second.size] = bytes(second.size)
    path.write_bytes(data)
    assert len(read(path, skip_damaged=True)) < 3
    with pytest.raises(av.error.InvalidDataError):
        read(path)


def test_a_cover_is_not_the_picture(tmp_path):
    path = write(tmp_path / "a.mp4", [90, 90], codec="mpeg4", cover=200)
    with media.open_to_read(path) as container:
        assert sorted(map(decoding.is_cover, container.streams.video)) == [False, True]
    assert all(abs(tone - 90) < 3 for _, tone in read(path))


def test_files_without_a_picture_are_named(tmp_path):
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match="a.wav has no video stream"):
        read(path)


def test_transparency_of_vp9_is_decoded(tmp_path):
    path = tmp_path / "a.webm"
    pixels = np.full((48, 64, 4), 200, np.uint8)
    pixels[:24, :, 3] = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format="yuva420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with media.open_to_read(path) as container:
        stream = decoding.best_video_stream(container)
        frames = list(decoding.decode(container.demux(stream), stream))
    assert len(frames) == 3
    for frame in frames:
        alpha = frame.to_ndarray(format="rgba")[..., 3]
        assert alpha[:20].max() < 10 and np.abs(alpha[28:].astype(int) - 200).max() < 10


class FrameOfUnknownKind:
    """A frame beside which there is data that PyAV has no name for."""

    def __init__(self, frame):
        self.rotation = frame.rotation

    @property
    def side_data(self):
        raise ValueError("31 is not a valid Type")


@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_rotation_is_found_beside_data_of_unknown_kind(tmp_path, rotation):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        container.mux(stream.encode(flat_frame(50, 0)) + stream.encode(None))
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    orientation = decoding.read_orientation(frame)
    image = np.arange(12).reshape(2, 2, 3)
    expected = np.rot90(image, rotation // 90)
    np.testing.assert_array_equal(decoding.make_upright(image, orientation), expected)
    assert decoding.read_orientation(FrameOfUnknownKind(frame)) == orientation


def test_parts_are_found_before_turning():
    image = np.arange(5 * 7 * 3).reshape(5, 7, 3)
    for orientation in itertools.product([False, True], repeat=3):
        upright = decoding.make_upright(image, orientation)
        crop = (1, 2, 3, 2)
        top, left, height, width = decoding.turn_back(crop, upright.shape[:2], orientation)
        part = decoding.make_upright(image[top : top + height, left : left + width], orientation)
        np.testing.assert_array_equal(part, upright[1:4, 2:4])


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        ((False, False, False), [[1, 2], [3, 4]]),
        ((False, True, True), [[4, 3], [2, 1]]),
        ((True, False, False), [[1, 3], [2, 4]]),
        ((True, True, False), [[2, 4], [1, 3]]),
    ],
)
def test_orientation_transposes_then_flips(orientation, upright):
    image = np.repeat(np.array([[1, 2], [3, 4]])[..., None], 3, axis=2)
    np.testing.assert_array_equal(decoding.make_upright(image, orientation)[..., 0], upright)
