"""Which formats are planes of luma and chroma, and how many samples they have; what is packed: inference/test_planes."""

import numpy as np
import pytest

from stvsr_jax.video import plane_layout
from stvsr_jax.video.plane_layout import layout_of


@pytest.mark.parametrize(
    "name", ["bgr0", "gbrp", "gbrp16le", "yuvj420p", "nv12", "yuv420p10be", "yuv411p", "yuva420p", "gray"]
)
def test_other_formats_have_no_layout(name):
    assert layout_of(name, 1) is None


@pytest.mark.parametrize(
    "name, subsampling, bits",
    [("yuv420p", (2, 2), 8), ("yuv422p10le", (1, 2), 10), ("yuv444p12le", (1, 1), 12)],
)
def test_layouts_say_how_many_samples_there_are(name, subsampling, bits):
    layout = layout_of(name, 9)
    assert layout == plane_layout.Layout(9, bits, subsampling)
    assert layout.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert plane_layout.subsampling_of(name) == subsampling


@pytest.mark.parametrize(
    "name, subsampling", [("bgr0", (1, 1)), ("nv12", (2, 2)), ("p010le", (2, 2)), ("gray", (1, 1))]
)
def test_every_format_has_a_subsampling(name, subsampling):
    assert plane_layout.subsampling_of(name) == subsampling


def test_what_is_encoded_has_whole_samples_of_chroma():
    assert plane_layout.encoded_size((21, 31), (2, 2)) == (20, 30)
    assert plane_layout.encoded_size((21, 31), (1, 2)) == (21, 30)
    assert plane_layout.encoded_size((21, 31), (1, 1)) == (21, 31)
