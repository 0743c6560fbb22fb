"""Tiles against the whole."""

import numpy as np
import pytest

from stvsr_jax.inference import tiling


def nearest(frames, out_size, origin=None):
    """Nearest neighbour, which sees no further than one pixel."""
    height, width = frames.shape[1:3]
    rows = (np.arange(out_size[0]) + 0.5) * height // out_size[0]
    columns = (np.arange(out_size[1]) + 0.5) * width // out_size[1]
    return frames[:, rows.astype(int)][:, :, columns.astype(int)]


@pytest.mark.parametrize("size", [100, 101, 250, 333])
@pytest.mark.parametrize("scale", [1.0, 2.5, 4.0, 2.71])
def test_spans_cover_the_axis_and_overlap(size, scale):
    out_size = round(size * scale)
    spans = tiling.plan_axis(size, out_size, tile=80, overlap=16)
    assert spans[0].start == spans[0].out_start == 0
    assert (spans[-1].stop, spans[-1].out_stop) == (size, out_size)
    for span in spans:
        assert (span.stop - span.start) % 4 == 0 and span.stop - span.start <= 80
        assert abs(span.out_start - span.start * out_size / size) <= 0.5
        assert abs(span.out_stop - span.stop * out_size / size) <= 1.0
    for a, b in zip(spans, spans[1:], strict=False):
        assert a.start < b.start and a.stop - b.start >= 16


@pytest.mark.parametrize("scale", [1.0, 2.5, 4.0, 2.71])
def test_weights_sum_to_one(scale):
    spans = tiling.plan_axis(301, round(301 * scale), tile=96, overlap=32)
    total = np.zeros(round(301 * scale))
    for k, span in enumerate(spans):
        share = np.zeros_like(total)
        share[span.out_start : span.out_stop] = tiling.fade_in(span, spans[k - 1] if k else None)
        for later, before in zip(spans[k + 1 :], spans[k:], strict=False):
            share[later.out_start : later.out_stop] *= 1 - tiling.fade_in(later, before)
        assert (share >= 0).all()
        total += share
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_fade_is_linear():
    weight = tiling.fade_in(tiling.Span(6, 12, 6, 12), tiling.Span(0, 10, 0, 10))
    np.testing.assert_allclose(weight, [0.125, 0.375, 0.625, 0.875, 1, 1])


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_tiled_equals_whole_for_a_local_network(scale):
    frames = np.random.default_rng(0).integers(0, 256, (2, 150, 203, 3), dtype=np.uint8)
    out_size = (150 * scale, 203 * scale)
    whole = nearest(frames, out_size)
    tiled = tiling.render_tiled(nearest, frames, out_size=out_size, tile=64, overlap=16)
    np.testing.assert_array_equal(tiled, whole)


def test_tiles_of_a_smooth_picture_match_at_a_fractional_scale():
    y, x = np.mgrid[0:200, 0:180]
    frames = np.stack([x, y, (x + y) // 2], -1)[None].astype(np.uint8)
    out_size = (546, 491)
    tiled = tiling.render_tiled(nearest, frames, out_size=out_size, tile=96, overlap=32)
    assert np.abs(tiled.astype(int) - nearest(frames, out_size)).max() <= 1


def test_tiles_that_differ_are_blended_linearly():
    tones = iter([0, 200])

    def flat(frames, out_size, origin):
        return np.full((1, *out_size, 3), next(tones), np.uint8)

    frames = np.zeros((1, 8, 12, 3), np.uint8)
    result = tiling.render_tiled(flat, frames, out_size=(8, 12), tile=8, overlap=4)
    np.testing.assert_array_equal(result[0, 3, :, 1], [0, 0, 0, 0, 25, 75, 125, 175, 200, 200, 200, 200])


def test_whole_frame_is_rendered_once():
    calls = []

    def render(frames, out_size, origin):
        calls.append((frames.shape, origin))
        return np.zeros((1, *out_size, 3), np.uint8)

    frames = np.zeros((2, 40, 60, 3), np.uint8)
    tiling.render_tiled(render, frames, out_size=(80, 120), tile=0)
    tiling.render_tiled(render, frames, out_size=(80, 120), tile=64)
    assert calls == [((2, 40, 60, 3), (0, 0))] * 2


def test_tile_no_larger_than_the_overlaps_is_refused():
    with pytest.raises(ValueError, match="tile=40"):
        tiling.plan_axis(100, 400, tile=40, overlap=32)


def test_parts_are_told_where_they_lie():
    y, x = np.mgrid[0:150, 0:203]
    frames = np.stack([y, x, y], -1)[None].astype(np.uint8)

    def render(frames, out_size, origin):
        assert origin == (4 * int(frames[0, 0, 0, 0]), 4 * int(frames[0, 0, 0, 1]))
        return nearest(frames, out_size)

    tiling.render_tiled(render, frames, out_size=(600, 812), tile=64, overlap=16)
