"""Samples along two axes are the sums of their rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.models import axes

LOW = (8, 12)


@pytest.mark.parametrize("out_size", [(12, 17), (3, 40)])
def test_samples_along_axes_are_sums_of_their_rows(out_size):
    image = jnp.asarray(np.random.default_rng(0).standard_normal((2, *LOW, 3)), jnp.float32)
    rows, columns = (axes.Axis.of(n, low, np.zeros(n)) for n, low in zip(out_size, LOW, strict=True))
    near = image[:, rows.nearest][:, :, columns.nearest]
    smooth = jax.jit(lambda x: columns.interpolate(rows.interpolate(x, axis=1), axis=2))(image)
    for values, reads in (
        (near, (rows.read_nearest(), columns.read_nearest())),
        (smooth, (rows.read_bilinear(), columns.read_bilinear())),
    ):
        samples = jax.jit(axes.sample_axes)(values, image, *reads)
        assert samples.values.shape == (2, 1, *out_size, 3)
        got = jnp.sum(samples.table[samples.index] * samples.weight[..., None], axis=0)
        np.testing.assert_allclose(got, samples.values, atol=2e-6)
