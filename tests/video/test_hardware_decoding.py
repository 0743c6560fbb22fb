"""Hardware decoders: named, refused with the reason, and equal to software; the last where there is an NVIDIA GPU."""

import contextlib

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel

from stvsr_jax.video import decoding, hardware_decoding, media, sequential_reader

B_FRAMES = {"bf": "3", "g": "12", "crf": "20"}
INTERLACED = {"flags": "+ildct+ilme", "crf": "20"}
# Hardware has smallest sizes of its own.
KINDS = {
    "h264": {"codec": "libx264", "options": B_FRAMES},
    "h264_full_range": {"codec": "libx264", "pix_fmt": "yuvj420p", "options": B_FRAMES},
    "h264_interlaced": {"codec": "libx264", "options": INTERLACED},
    "h264_turned": {"codec": "libx264", "options": B_FRAMES, "rotation": 90},
    "hevc": {"codec": "libx265", "options": {"x265-params": "log-level=error"}},
    "hevc_10_bits": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "log-level=error"},
    },
}


def draw_images(count, size=(144, 256)):
    """Coloured noise that moves, smooth enough that chroma at half the size is of interest."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    return [np.roll(coarse, (2 * i, 3 * i), (0, 1)) for i in range(count)]


def read(path, decoder):
    info = sequential_reader.probe(path)
    frames = sequential_reader.read_frames(info, decoder=decoder)
    return [(frame.time, frame.duration, frame.image) for frame in frames]


def assert_same(found, expected):
    assert [frame[:2] for frame in found] == [frame[:2] for frame in expected]
    for a, b in zip(found, expected, strict=True):
        assert a[2].dtype == b[2].dtype
        np.testing.assert_array_equal(a[2], b[2])


def check(path, decoder="cuda"):
    info = sequential_reader.probe(path)
    hardware_decoding.check_input(path, info.stream_index, decoder, has_alpha=info.has_alpha)


def to_semi_planar(frame):
    """Returns the same frame as hardware gives it: both chroma planes interleaved, 10 bits in the upper ones of 16."""
    is_deep = frame.format.name == "yuv420p10le"
    kind = np.dtype(np.uint16 if is_deep else np.uint8)
    same = {"src_color_range": 1, "dst_color_range": 1}
    result = frame.reformat(format="p010le" if is_deep else "nv12", threads=1, **same)
    luma, *chroma = (
        np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes
    )
    for plane, values in zip(
        result.planes, (luma, np.stack(chroma, -1).reshape(len(chroma[0]), -1)), strict=True
    ):
        lines = np.zeros((plane.height, plane.line_size // kind.itemsize), kind)
        lines[:, : values.shape[1]] = values << 6 if is_deep else values
        plane.update(lines)
    return result


@pytest.fixture
def imitate(monkeypatch):
    """Makes "cuda" a software decoder whose frames are changed by a function."""
    open_stream, decode = hardware_decoding.open_stream, decoding.decode

    @contextlib.contextmanager
    def open_software(path, stream_index, decoder):
        with open_stream(path, stream_index, "software") as opened:
            yield opened

    def change_by(function):
        def decode_changed(packets, stream, *, skip_damaged=False):
            frames = decode(packets, stream, skip_damaged=skip_damaged)
            return frames if skip_damaged else map(function, frames)

        monkeypatch.setattr(hardware_decoding, "open_stream", open_software)
        monkeypatch.setattr(decoding, "decode", decode_changed)

    return change_by


@pytest.mark.parametrize("kind", KINDS)
def test_semi_planar_frames_become_the_same_pictures(kind, tmp_path, write_video, imitate):
    path = write_video(tmp_path / "a.mp4", draw_images(7), **KINDS[kind])
    expected = read(path, "software")
    assert len(expected) == 7 and np.std(expected[0][2]) > 20
    names = []
    imitate(lambda frame: (made := to_semi_planar(frame), names.append(made.format.name))[0])
    check(path)
    assert_same(read(path, "cuda"), expected)
    assert set(names) == {"p010le" if "10" in kind else "nv12"}


@pytest.mark.parametrize("size", [(64, 96), (63, 95), (270, 482)])
@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le"])
def test_samples_stay(name, size):
    noise = np.random.default_rng(0).integers(0, 65536, (*size, 3), np.uint16)
    frame = av.VideoFrame.from_ndarray(noise, format="rgb48le").reformat(format=name, threads=1)
    frame.pts = 7
    planar = hardware_decoding._to_planar(
        to_semi_planar(frame), av.video.reformatter.VideoReformatter(), "cuda"
    )
    (facts, planes), (expected_facts, expected) = map(hardware_decoding._samples, (planar, frame))
    assert facts == expected_facts == (name, size[1], size[0], 7)
    for plane, wanted in zip(planes, expected, strict=True):
        np.testing.assert_array_equal(plane, wanted)


def test_other_frames_are_refused(tmp_path, write_video, imitate):
    path = write_video(tmp_path / "a.mp4", draw_images(4), options=B_FRAMES)

    def spoil(frame):
        frame = to_semi_planar(frame)
        if frame.pts:
            values = np.frombuffer(frame.planes[0], np.uint8)
            values[0] ^= 1
        return frame

    imitate(spoil)
    with pytest.raises(ValueError, match="decoder=cuda: .*a.mp4 decodes to other frames"):
        check(path)


def test_formats_that_nobody_compared_are_refused(tmp_path, write_video, imitate):
    path = write_video(tmp_path / "a.mp4", draw_images(2), options=B_FRAMES)
    imitate(lambda frame: frame.reformat(format="p016le"))
    with pytest.raises(ValueError, match="decoder=cuda gives frames of format p016le, not of nv12, p010le"):
        check(path)


def test_hardware_that_stops_is_an_error(tmp_path, write_video, imitate):
    path = write_video(tmp_path / "a.mp4", draw_images(8), options=B_FRAMES)

    def stop(frame):
        if frame.pts >= 5 * 512:
            raise av.error.InvalidDataError(1, "no surface", "")
        return to_semi_planar(frame)

    imitate(stop)
    check(path)
    with pytest.raises(ValueError, match="decoder=cuda cannot decode this video, or not beyond .*no surface"):
        read(path, "cuda")


def test_software_is_tried_on_nothing(tmp_path):
    hardware_decoding.check_input(tmp_path / "missing.mp4", None, "software")


def test_unknown_decoders_are_named(monkeypatch):
    for decoder in ("software", "cuda"):
        hardware_decoding.check_decoder(decoder)
    with pytest.raises(ValueError, match="decoder='nvdec' is not one of software, cuda"):
        hardware_decoding.check_decoder("nvdec")
    monkeypatch.setattr(hardware_decoding, "hwdevices_available", lambda: ["qsv"])
    with pytest.raises(ValueError, match="decoder=cuda: the FFmpeg here was built without it; it has qsv"):
        hardware_decoding.check_decoder("cuda")


def test_inputs_whose_pixels_are_not_specified_are_refused(tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", draw_images(2), codec="mpeg4")
    with pytest.raises(ValueError, match="decoder=cuda: .*a.mp4 is mpeg4; only of av1, h264, hevc, vp9"):
        check(path)
    with pytest.raises(ValueError, match="decoder=cuda: .* is no video of one of av1, h264"):
        hardware_decoding.check_input(tmp_path, None, "cuda")


def _has_cuda(folder, write_video):
    path = write_video(folder / "probe.mp4", draw_images(1), options=B_FRAMES)
    try:
        media.open_to_read(path, hwaccel=HWAccel("cuda", allow_software_fallback=False)).close()
    except av.FFmpegError:
        return False
    return True


@pytest.fixture(scope="module")
def has_cuda(tmp_path_factory, write_video):
    return _has_cuda(tmp_path_factory.mktemp("hardware"), write_video)


def test_missing_hardware_is_named(tmp_path, write_video, has_cuda):
    if has_cuda:
        pytest.skip("there is an NVIDIA GPU here")
    path = write_video(tmp_path / "a.mp4", draw_images(2), options=B_FRAMES)
    with pytest.raises(ValueError, match="decoder=cuda cannot be used here .*NVDEC.*--decoder software"):
        check(path)


@pytest.mark.parametrize("kind", KINDS)
def test_hardware_decodes_to_the_same_pictures(kind, tmp_path, write_video, has_cuda):
    if not has_cuda:
        pytest.skip("needs an NVIDIA GPU")
    path = write_video(tmp_path / "a.mp4", draw_images(40), **KINDS[kind])
    check(path)
    assert_same(read(path, "cuda"), read(path, "software"))


def test_what_hardware_cannot_decode_is_refused(tmp_path, write_video, has_cuda):
    if not has_cuda:
        pytest.skip("needs an NVIDIA GPU")
    path = write_video(tmp_path / "a.mp4", draw_images(4), pix_fmt="yuv422p", options=B_FRAMES)
    with pytest.raises(ValueError, match="decoder=cuda"):
        check(path)
