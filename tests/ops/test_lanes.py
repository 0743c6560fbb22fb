"""Images with their pixels along the lanes."""

import jax
import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.ops.lanes import from_lanes, pack, to_lanes, unpack


def test_pixels_lie_row_by_row_and_return():
    x = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    y = to_lanes(x)
    assert y.shape == (4, 30) and y[2, (1 * 3 + 2) * 5 + 4] == x[1, 2, 4, 2]
    np.testing.assert_array_equal(from_lanes(y, (2, 3, 5)), x)


def test_loops_carry_lanes_on_a_tpu_alone():
    x = np.arange(2 * 3 * 5 * 4 * 6).reshape(2, 3, 5, 4, 6)
    assert pack(x) is x and unpack(x, x.shape) is x
    device = AbstractDevice(device_kind="any", num_cores=None, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
        y = pack(x)
        assert y.shape == (2, 6, 60)
        np.testing.assert_array_equal(y[1], to_lanes(x[1]))
        np.testing.assert_array_equal(unpack(y, x.shape), x)
        np.testing.assert_array_equal(unpack(y[1], x.shape), x[1])
        line = x[0, 0]  # no image
        assert pack(line) is line and unpack(line, line.shape) is line
