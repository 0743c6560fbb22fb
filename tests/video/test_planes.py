"""Planes are those that FFmpeg makes, but for one level and where chroma lies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from av import VideoFrame
from av.video.reformatter import ColorRange, Interpolation

from stvsr_jax.video import colour, planes
from tests.lossless import through_h264

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


def reformat(rgb: np.ndarray, name: str, matrix: int) -> VideoFrame:
    """FFmpeg's own conversion, as exact as it can."""
    frame = VideoFrame.from_ndarray(rgb, format="rgb48le" if rgb.dtype == np.uint16 else "rgb24")
    kind = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
    matrix = colour.MATRICES[matrix]
    return frame.reformat(
        format=name, dst_colorspace=matrix, dst_color_range=ColorRange.MPEG, interpolation=kind, threads=1
    )


def float_of(rgb: np.ndarray) -> np.ndarray:
    return (rgb / np.iinfo(rgb.dtype).max).astype(np.float32)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", FORMATS)
def test_planes_are_those_of_ffmpeg_but_for_one_level(name, matrix):
    rgb = smooth_picture(48, 32)
    layout = planes.layout_of(name, matrix)
    assert layout.bits == VideoFrame(16, 16, name).format.components[0].bits
    deep = colour.to_16_bits(rgb) if layout.bits > 8 else rgb
    expected = read(reformat(deep, name, matrix))
    made = jax.jit(functools.partial(planes.from_rgb, layout=layout, xp=jnp))(float_of(deep))
    for plane, reference in zip(made, expected, strict=True):
        assert plane.dtype == layout.dtype and plane.shape == reference.shape
        # One level of 8 bits: with more, FFmpeg's converter is off by up to three quarters of it.
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


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p"])
def test_chroma_lies_where_readers_take_it_to_be(name):
    """A wave of colours comes back where it was; FFmpeg's way moves it by half a pixel."""
    x = np.arange(128)
    wave = 0.4 * np.sin(2 * np.pi * x / 32)
    picture = np.broadcast_to(0.5 + np.stack([wave, 0 * wave, -wave], -1), (64, 128, 3))
    tags = colour.ColourTags(1, False, 1, 1)
    made = [np.asarray(p) for p in planes.from_rgb(picture, planes.layout_of(name, 1))]
    ours = colour.planes_to_frame(made, name, tags)
    theirs = reformat(np.round(255 * picture).astype(np.uint8), name, 1)

    def shift(frame):
        back = colour.RgbConverter(tags).to_rgb(through_h264(frame))[32, :, 0] / 255 - 0.5
        turn = np.exp(-2j * np.pi * x / 32)
        return -np.angle(np.sum(back * turn) / np.sum(wave * turn)) * 32 / (2 * np.pi)

    assert abs(shift(ours)) < 0.05
    assert abs(shift(theirs)) > 0.3  # otherwise FFmpeg's way is right as well and can be used


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


@pytest.mark.parametrize("name", FORMATS)
def test_packed_planes_are_those_of_the_even_part_on_any_kind_of_array(name):
    layout, rgb = planes.layout_of(name, 6), np.random.default_rng(3).random((2, 21, 31, 3), dtype=np.float32)
    height, width = (
        21 // layout.subsampling[0] * layout.subsampling[0],
        31 // layout.subsampling[1] * layout.subsampling[1],
    )
    expected = planes.from_rgb(rgb[:, :height, :width], layout)
    packed = planes.pack(rgb, layout)
    on_device = planes.pack(jnp.asarray(rgb), layout, xp=jnp)
    assert on_device.dtype == packed.dtype == layout.dtype
    assert np.abs(np.asarray(on_device, int) - packed).max() <= 1  # where a sum rounds the other way
    assert np.mean(np.asarray(on_device) != packed) < 1e-3
    for i in range(2):
        for plane, reference in zip(planes.unpack(packed[i], (21, 31), layout), expected, strict=True):
            np.testing.assert_array_equal(plane, reference[i])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_taken_as_their_whole_range(dtype):
    rgb = np.random.default_rng(4).integers(0, np.iinfo(dtype).max, (16, 16, 3), dtype, endpoint=True)
    layout = planes.layout_of("yuv420p10le", 1)
    for one, other in zip(planes.from_rgb(rgb, layout), planes.from_rgb(float_of(rgb), layout), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
