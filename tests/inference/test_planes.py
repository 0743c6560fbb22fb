"""Planes are those that the host makes, but for one level."""

import jax
import numpy as np
import pytest
from av import VideoFrame
from av.video.reformatter import ColorRange
from PIL import Image

from stvsr_jax.inference import planes
from stvsr_jax.video import colour
from stvsr_jax.video.plane_layout import layout_of, unpack
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
    """Colours up to both ends of the range that change smoothly both ways."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 6, width // 6, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def float_of(rgb: np.ndarray) -> np.ndarray:
    return (rgb / np.iinfo(rgb.dtype).max).astype(np.float32)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("name", FORMATS)
def test_planes_are_those_of_the_host_but_for_one_level(name, matrix):
    rgb = smooth_picture(48, 32)
    layout = layout_of(name, matrix)
    assert layout.bits == VideoFrame(16, 16, name).format.components[0].bits
    deep = colour.to_16_bits(rgb) if layout.bits > 8 else rgb
    expected = read(colour.rgb_to_frame(deep, name, colour.ColourTags(matrix, False, 2, 2)))
    made = jax.jit(planes.from_rgb, static_argnums=1)(float_of(deep), layout)
    for plane, reference in zip(made, expected, strict=True):
        assert plane.dtype == layout.dtype and plane.shape == reference.shape
        # One level of 8 bits: with more, FFmpeg's converter is off by up to three quarters of it.
        assert np.abs(np.asarray(plane, int) - reference).max() <= 2 ** (layout.bits - 8)


@pytest.mark.parametrize("name", ["yuv444p", "yuv444p10le"])
def test_every_colour_is_right_to_half_a_level(name):
    rng = np.random.default_rng(1)
    rgb = rng.random((64, 64, 3))
    rgb[:2] = np.round(rgb[:2])  # the corners of the cube
    layout = layout_of(name, 1)
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
    """A wave of colours comes back where it was."""
    x = np.arange(128)
    wave = 0.4 * np.sin(2 * np.pi * x / 32)
    picture = np.broadcast_to(0.5 + np.stack([wave, 0 * wave, -wave], -1), (64, 128, 3))
    tags = colour.ColourTags(1, False, 1, 1)
    made = [np.asarray(p) for p in planes.from_rgb(picture, layout_of(name, 1))]
    ours = colour.planes_to_frame(made, name, tags)

    theirs = colour.rgb_to_frame(np.round(255 * picture).astype(np.uint8), name, tags)

    def shift(frame):
        back = colour.RgbConverter(tags).to_rgb(through_h264(frame))[32, :, 0] / 255 - 0.5
        turn = np.exp(-2j * np.pi * x / 32)
        return -np.angle(np.sum(back * turn) / np.sum(wave * turn)) * 32 / (2 * np.pi)

    assert abs(shift(ours)) < 0.05 and abs(shift(theirs)) < 0.05
    centred = VideoFrame.from_ndarray(np.round(255 * picture).astype(np.uint8), format="rgb24").reformat(
        format=name, dst_colorspace=colour.MATRICES[1], dst_color_range=ColorRange.MPEG
    )
    assert abs(shift(centred)) > 0.3  # what the converter does by itself


@pytest.mark.parametrize("width", [30, 64, 126])
@pytest.mark.parametrize("name", FORMATS)
def test_frames_hold_the_planes_and_their_tags(name, width):
    rng = np.random.default_rng(2)
    layout = layout_of(name, 9)
    made = [np.asarray(p) for p in planes.from_rgb(rng.random((20, width, 3)), layout)]
    frame = colour.planes_to_frame(made, name, colour.ColourTags(9, False, 9, 16))
    assert (frame.width, frame.height, frame.format.name) == (width, 20, name)
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (9, 1, 9, 16)
    for plane, reference in zip(read(frame), made, strict=True):
        np.testing.assert_array_equal(plane, reference)


def test_an_odd_side_is_refused():
    with pytest.raises(ValueError, match="31x20"):
        planes.from_rgb(np.zeros((20, 31, 3)), layout_of("yuv420p", 1))


@pytest.mark.parametrize("name", FORMATS)
def test_packed_planes_are_those_of_the_even_part(name):
    layout = layout_of(name, 6)
    rgb = np.random.default_rng(3).random((2, 21, 31, 3), dtype=np.float32)
    rows, columns = layout.subsampling
    expected = planes.from_rgb(rgb[:, : 21 // rows * rows, : 31 // columns * columns], layout)
    packed = np.asarray(jax.jit(planes.pack, static_argnums=1)(rgb, layout))
    assert packed.dtype == layout.dtype
    for i in range(2):
        for plane, reference in zip(unpack(packed[i], (21, 31), layout), expected, strict=True):
            assert np.abs(plane.astype(int) - np.asarray(reference[i], int)).max() <= 1  # compiled, or not
