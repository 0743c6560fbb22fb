"""Fields become frames where frames say that they are made of two."""

from fractions import Fraction

import av
import av.filter
import numpy as np
import pytest

from stvsr_jax.video.deinterlacing import deinterlace

TICK = Fraction(1, 25)


def make_frame(number, *, is_interlaced, size=(64, 96)):
    """A bar that moves eight pixels per frame; an interlaced frame's lower field shows it four pixels on."""
    height, width = size
    image = np.full((height, width), 60, np.uint8)
    image[:, 8 * number : 8 * number + 12] = 200
    if is_interlaced:
        image[1::2] = np.roll(image[1::2], 4, axis=1)
    frame = av.VideoFrame.from_ndarray(image, format="gray").reformat(format="yuv420p")
    frame.pts, frame.time_base = number, TICK
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=frame.format, time_base=TICK)
    mark = graph.add("setfield", "tff" if is_interlaced else "prog")
    graph.link_nodes(source, mark, graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def luma(frame):
    return frame.to_ndarray()[: frame.height].astype(int)


def comb(frame):
    """How much neighbouring lines differ."""
    return np.abs(np.diff(luma(frame)[8:-8], axis=0)).mean()


@pytest.mark.parametrize("flags", ["pppp", "iiii", "piii", "ppiipp", "ipi", "p", "i", "pi"])
def test_frames_are_whole_and_keep_their_times(flags):
    frames = [make_frame(i, is_interlaced=flag == "i") for i, flag in enumerate(flags)]
    made = list(deinterlace(frames, TICK))
    assert [frame.pts for frame in made] == list(range(len(flags)))
    for before, after, flag in zip(frames, made, flags, strict=True):
        if flag == "p":
            np.testing.assert_array_equal(luma(after), luma(before))
        elif len(flags) > 2:
            assert comb(before) >= 10 and comb(after) < 4


def test_a_change_of_size_starts_anew():
    sizes = [(64, 96)] * 3 + [(48, 128)] * 3
    frames = [make_frame(i, is_interlaced=True, size=size) for i, size in enumerate(sizes)]
    made = list(deinterlace(frames, TICK))
    assert [(frame.pts, (frame.height, frame.width)) for frame in made] == list(enumerate(sizes))
