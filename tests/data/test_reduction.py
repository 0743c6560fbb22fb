"""A crop that is reduced is the crop of the reduced frame."""

import numpy as np
import pytest

from stvsr_jax import bicubic
from stvsr_jax.data.reduction import reduce_crop, reduced_span, to_unit, whole_span


@pytest.mark.parametrize("reduce", [2, 4, 8, 3, 2.7])
@pytest.mark.parametrize("quantize", [True, False])
def test_equals_crop_of_the_reduced_frame(reduce, quantize):
    height, width = 101, 150
    crop = 37 if reduce < 2.8 else 8  # more pixels than one matrix product makes, or fewer
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    whole = bicubic.imresize(frames, scale=1 / reduce)
    expected = to_unit(whole, quantize=quantize)
    bottom, right = whole.shape[1] - crop, whole.shape[2] - crop
    for top, left in ((0, 0), (bottom, right), (0, right), (1, 2), (bottom // 2, right // 2)):
        rows, columns = reduced_span(height, reduce, top, crop), reduced_span(width, reduce, left, crop)
        part = frames[:, rows.start : rows.stop, columns.start : columns.stop]
        found = reduce_crop(part, rows, columns, origin=(rows.start, columns.start), quantize=quantize)
        np.testing.assert_allclose(
            found, expected[:, top : top + crop, left : left + crop], rtol=0, atol=1e-6
        )


def test_only_needed_pixels_are_asked_for():
    span = reduced_span(400, 4, 20, 8)
    # 8 pixels of 4, and the 6 that the kernel reaches beyond on each side.
    assert (span.start, span.stop) == (74, 118)
    assert len(span) == 8
    assert [(first, weights.shape) for first, weights in span.blocks] == [(0, (8, 44))]
    assert reduced_span(400, 4, 0, 8).start == 0
    assert reduced_span(400, 4, 92, 8).stop == 400


@pytest.mark.parametrize(
    ("size", "reduce", "length"), [(128, 4, 32), (187, 5.84, 32), (150, 2, 75), (146, 1, 146)]
)
def test_whole_axis_ends_where_it_ends(size, reduce, length):
    frames = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    expected = to_unit(bicubic.imresize(frames, scale=1 / reduce, out_size=(length, length)), quantize=True)
    span = whole_span(size, reduce, length)
    found = reduce_crop(frames, span, span, origin=(0, 0), quantize=True)
    np.testing.assert_array_equal(found, expected)


def test_reducing_by_one_is_the_identity():
    span = reduced_span(50, 1, 7, 5)
    assert (span.start, span.stop) == (7, 12)
    ((first, weights),) = span.blocks
    assert first == 0
    np.testing.assert_array_equal(weights, np.eye(5))


def test_unit_range():
    values = np.array([-5.0, 0.4, 127.6, 260.0], np.float32)
    np.testing.assert_allclose(to_unit(values, quantize=True), np.array([0, 0, 128, 255]) / 255, rtol=1e-6)
    np.testing.assert_allclose(
        to_unit(values, quantize=False), np.array([0, 0.4, 127.6, 255]) / 255, rtol=1e-6
    )
    assert to_unit(values, quantize=True).dtype == np.float32


def test_pixels_outside_are_named():
    with pytest.raises(ValueError, match="pixels 20 to 27 .* 100 pixels reduced by 4 are 25"):
        reduced_span(100, 4, 20, 8)
