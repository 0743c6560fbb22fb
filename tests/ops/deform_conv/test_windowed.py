"""The window of the gather-free deformable convolution: exact up to its edges, refused beyond them.

Its values and gradients are in test_deform_conv.py, as of every implementation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops.deform_conv import gather, windowed
from stvsr_jax.ops.deform_conv.windowed import Geometry

GEOMETRY = Geometry((1, 1), (1, 1), (1, 1), (3, 3))
REACH = windowed.REACH


def example(displacement):
    """Returns (x, head) with one displacement for all taps."""
    rng = np.random.default_rng(0)
    head = rng.standard_normal((1, 5, 6, 9, 3, 2)).astype(np.float32)
    head[..., :2, :] = displacement
    return rng.standard_normal((1, 5, 6, 4)).astype(np.float32), head


@pytest.mark.parametrize("displacement", [-REACH, -1.0, 0.0, 1.0, REACH - 1e-3])
def test_values_and_gradients_at_the_edges_equal_gathers(displacement):
    operands = example(displacement)
    assert windowed.fits(operands[1])
    results = []
    for function in (windowed.run, gather.run):
        run = functools.partial(function, geometry=GEOMETRY, logits=True)

        def loss(*operands, run=run):
            return jnp.sum(jnp.sin(run(*operands)))

        results.append(
            (jax.jit(run)(*operands).reshape(1, 5, 6, 9, 4), *jax.jit(jax.grad(loss, range(2)))(*operands))
        )
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("displacement", [REACH, -REACH - 1e-3, 100.0, np.inf, np.nan])
def test_what_the_window_does_not_hold_is_refused(displacement):
    _, head = example(0.0)
    head[0, 2, 3, 4, 1, 1] = displacement
    assert not windowed.fits(head)


def test_masks_may_have_any_value():
    _, head = example(0.0)
    head[..., 2, :] = 1e6
    assert windowed.fits(head)
