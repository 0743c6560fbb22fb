"""Parts of frames hold what the frame holds there, and enough of it."""

import av
import numpy as np
import pytest

from stvsr_jax.video import frame_parts


def draw_frame(pixel_format, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)


@pytest.mark.parametrize(
    "crop, size, expected",
    [
        (None, (720, 1280), (0, 0, 720, 1280)),
        ((100, 200, 128, 128), (720, 1280), (80, 176, 176, 176)),
        ((0, 1152, 128, 128), (720, 1280), (0, 1136, 144, 144)),
        ((590, 3, 128, 128), (718, 1280), (560, 0, 158, 160)),
        ((0, 0, 128, 128), (140, 200), (0, 0, 140, 200)),  # more than half of it
        ((0, 0, 10, 10), (719, 1280), (0, 0, 719, 1280)),  # chroma of an odd side is stretched
    ],
)
def test_needed_part(crop, size, expected):
    assert frame_parts.needed_part(crop, size, "yuv420p") == expected


@pytest.mark.parametrize("pixel_format", sorted(frame_parts.PLANAR))
def test_part_of_a_frame_is_a_frame(pixel_format):
    frame = draw_frame(pixel_format, (50, 70))
    whole = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]
    parts = frame_parts.PartFrames()
    for row, column, rows, columns in ((16, 32, 32, 16), (0, 48, 32, 22), (16, 32, 32, 16)):
        planes = frame_parts.cut_planes(frame, (row, column, rows, columns))
        part = parts.fill(planes, pixel_format, frame)
        assert (part.height, part.width, part.format.name) == (rows, columns, pixel_format)
        for number, plane in enumerate(part.planes):
            step_y, step_x = frame_parts.PLANAR[pixel_format] if number else (1, 1)
            found = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : columns // step_x]
            lines = whole[number][row // step_y : (row + rows) // step_y]
            np.testing.assert_array_equal(found, lines[:, column // step_x : (column + columns) // step_x])


def test_a_resized_frame_is_another():
    frame = draw_frame("yuv420p", (16, 16))
    other = frame_parts.resize_like(frame, 16, 16, "yuv420p")
    before = bytes(frame.planes[0])
    other.planes[0].update(bytes(other.planes[0].buffer_size))
    assert bytes(frame.planes[0]) == before
