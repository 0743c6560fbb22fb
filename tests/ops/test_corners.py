"""Corners and pairs of bilinear samples, against the definition."""

import itertools

import numpy as np
import pytest

from stvsr_jax.ops.corners import corners_of, pairs_of

SHAPE = (2, 3, 4, 2, 5)


def tent(coords, row, shape):
    """Returns the bilinear weight of the pixel at a row of the image seen as [(b, y, x, g), c], and its derivatives."""
    _, y, x, _ = np.unravel_index(row, shape[:4])
    in_y, in_x = 1 - abs(coords[0] - y), 1 - abs(coords[1] - x)
    slope_y, slope_x = (1.0 if at > c else -1.0 for at, c in ((y, coords[0]), (x, coords[1])))
    return in_y * in_x, (slope_y * in_x, slope_x * in_y)


def check(weights, shape, coords, place):
    """Checks weights and derivatives, by row, of one coordinate against all pixels of its image and group."""
    b, _, _, g = place
    for y, x in np.ndindex(shape[1:3]):
        row = np.ravel_multi_index((b, y, x, g), shape[:4])
        weight, slopes = tent(coords, row, shape) if max(abs(coords - (y, x))) < 1 else (0.0, (0.0, 0.0))
        found = [(w, *s) for r, w, s in weights if r == row] or [(0.0, 0.0, 0.0)]
        np.testing.assert_allclose(np.sum(found, axis=0), (weight, *slopes), atol=1e-6)


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1, 1, 3), (1, 3, 1, 2, 3)])
def test_weights_and_derivatives_are_those_of_a_tent(shape):
    coords = np.random.default_rng(0).uniform(-2.5, 5.5, (shape[0], 40, 1, shape[3], 2)).astype(np.float32)
    corners = corners_of(shape, coords)
    pairs = pairs_of(shape, coords)
    for place in itertools.product(*map(range, coords.shape[:-1])):
        at = coords[place]
        four = [(i[place], w[place], [s[place] for s in slopes]) for i, w, slopes in corners]
        check(four, shape, at, place)
        two = [
            (i[place] + side * shape[3], w[side][place], [s[side][place] for s in slopes])
            for i, w, slopes in pairs
            for side in (0, 1)
        ]
        check(two, shape, at, place)


def test_far_and_infinite_coordinates_weigh_nothing_and_stay_in_the_image():
    coords = np.zeros((2, 3, 1, 2, 2), np.float32)
    coords[:, 0], coords[:, 1], coords[:, 2] = 1e30, -np.inf, (1.0, 1e9)
    for index, weight, _ in corners_of(SHAPE, coords):
        assert index.min() >= 0 and index.max() < np.prod(SHAPE[:4])
        assert not np.any(np.nan_to_num(weight[:, [0, 2]]))
    for index, weights, _ in pairs_of(SHAPE, coords):
        assert index.min() >= 0 and index.max() + SHAPE[3] < np.prod(SHAPE[:4])
        assert not np.any(np.nan_to_num(np.stack(weights)[:, :, [0, 2]]))
