"""Planes made on the device are the host's, but for one level and where chroma lies."""

import io

import av
import jax
import numpy as np
import pytest
from av import VideoFrame

from stvsr_jax.inference import planes
from stvsr_jax.video import colour

FORMATS = ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le"]
MATRICES = [1, 4, 6, 7, 9]


def read(frame: VideoFrame) -> list[np.ndarray]:
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    found = []
    for plane in frame.planes:
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        found.append(lines.view(dtype)[:, : plane.width].astype(int))
    return found


def smooth_picture(height: int, width: int) -> np.ndarray:
    """Colours that change along the rows alone, up to both ends of the range: where chroma lies does not matter."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 4, 1, 3))
    return np.broadcast_to(np.repeat(coarse, 4, axis=0), (height, width, 3)).astype(np.uint8)


def float_of(rgb: np.ndarray) -> np.ndarray:
    return (rgb / np.iinfo(rgb.dtype).max).astype(np.float32)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", FORMATS)
def test_planes_are_those_of_the_host_but_for_one_level(name, matrix):
    rgb = smooth_picture(48, 32)
    layout = planes.layout_of(name, matrix)
    assert layout.bits == VideoFrame(16, 16, name).format.components[0].bits
    deep = colour.to_16_bits(rgb) if layout.bits > 8 else rgb
    expected = read(colour.rgb_to_frame(deep, name, colour.ColourTags(matrix, False, 2, 2), threads=1))
    made = jax.jit(planes.from_rgb, static_argnums=1)(float_of(deep), layout)
    for plane, reference in zip(made, expected, strict=True):
        assert plane.dtype == layout.dtype and plane.shape == reference.shape
        # One level of 8 bits: with more, the converter of the host is off by up to three quarters of it.
        assert np.abs(np.asarray(plane, int) - reference).max() <= 2 ** (layout.bits - 8)


@pytest.mark.parametrize("name", ["yuv444p", "yuv444p10le"])
def test_every_colour_is_right_to_half_a_level(name):
    rng = np.random.default_rng(1)
    rgb = rng.random((64, 64, 3))
    rgb[:2] = np.round(rgb[:2])  # the corners of the cube
    layout = planes.layout_of(name, 1)
    luma = rgb @ [0.2126, 0.7152, 0.0722]
    exact = [
        16 + 219 * luma,
        128 + 112 * (rgb[..., 2] - luma) / 0.9278,
        128 + 112 * (rgb[..., 0] - luma) / 0.7874,
    ]
    for plane, reference in zip(planes.from_rgb(rgb, layout), exact, strict=True):
        assert np.abs(np.asarray(plane) - reference * 2 ** (layout.bits - 8)).max() < 0.5 + 1e-3


def encode_and_decode(frame: VideoFrame) -> VideoFrame:
    """Through H.264, as good as lossless: its frames say where chroma lies."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p"])
def test_chroma_lies_where_readers_take_it_to_be(name):
    """A wave of colours comes back where it was; the host's way moves it by half a pixel."""
    x = np.arange(128)
    wave = 0.4 * np.sin(2 * np.pi * x / 32)
    picture = np.broadcast_to(0.5 + np.stack([wave, 0 * wave, -wave], -1), (64, 128, 3))
    tags = colour.ColourTags(1, False, 1, 1)
    made = [np.asarray(p) for p in planes.from_rgb(picture, planes.layout_of(name, 1))]
    ours = colour.planes_to_frame(made, name, tags)
    theirs = colour.rgb_to_frame(np.round(255 * picture).astype(np.uint8), name, tags, threads=1)

    def shift(frame):
        back = colour.RgbConverter(tags).to_rgb(encode_and_decode(frame))[32, :, 0] / 255 - 0.5
        turn = np.exp(-2j * np.pi * x / 32)
        return -np.angle(np.sum(back * turn) / np.sum(wave * turn)) * 32 / (2 * np.pi)

    assert abs(shift(ours)) < 0.05
    assert abs(shift(theirs)) > 0.3  # otherwise the host's way is right as well and can be used


@pytest.mark.parametrize("width", [30, 64, 126])
@pytest.mark.parametrize("name", FORMATS)
def test_frames_hold_the_planes_and_their_tags(name, width):
    rng = np.random.default_rng(2)
    layout = planes.layout_of(name, 9)
    made = [np.asarray(p) for p in planes.from_rgb(rng.random((20, width, 3)), layout)]
    frame = colour.planes_to_frame(made, name, colour.ColourTags(9, False, 9, 16))
    assert (frame.width, frame.height, frame.format.name) == (width, 20, name)
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (9, 1, 9, 16)
    for plane, reference in zip(read(frame), made, strict=True):
        np.testing.assert_array_equal(plane, reference)


@pytest.mark.parametrize(
    "name", ["bgr0", "gbrp", "gbrp16le", "yuvj420p", "nv12", "yuv420p10be", "yuv411p", "yuva420p", "gray"]
)
def test_other_formats_have_no_layout(name):
    assert planes.layout_of(name, 1) is None


def test_an_odd_side_is_refused():
    with pytest.raises(ValueError, match="31x20"):
        planes.from_rgb(np.zeros((20, 31, 3)), planes.layout_of("yuv420p", 1))


def test_planes_are_cut_to_what_is_encoded():
    layout = planes.layout_of("yuv420p", 1)
    made = [np.asarray(p) for p in planes.from_rgb(np.random.default_rng(3).random((24, 32, 3)), layout)]
    luma, blue, red = planes.crop(made, 20, 30, layout)
    assert luma.shape == (20, 30) and blue.shape == red.shape == (10, 15)
    np.testing.assert_array_equal(blue, made[1][:10, :15])
