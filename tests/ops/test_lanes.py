"""Images with their pixels along the lanes."""

import numpy as np

from stvsr_jax.ops.lanes import from_lanes, to_lanes


def test_pixels_lie_row_by_row_and_return():
    x = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    y = to_lanes(x)
    assert y.shape == (4, 30) and y[2, (1 * 3 + 2) * 5 + 4] == x[1, 2, 4, 2]
    np.testing.assert_array_equal(from_lanes(y, (2, 3, 5)), x)
