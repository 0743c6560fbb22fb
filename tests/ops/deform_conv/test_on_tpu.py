"""Programs for TPUs keep little for the gradients of a deformable convolution, and these are those of the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops import deform_columns
from stvsr_jax.ops.deform_conv import on_tpu

SHAPE = (2, 4, 5)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def convolve(x, head, kernel, bias):
    return deform_columns(x, head, groups=8, implementation="gather") @ kernel[0, 0] + bias


OPERANDS = draw(*SHAPE, 64), draw(*SHAPE, 216, seed=1), draw(1, 1, 576, 16, seed=2), draw(16, seed=3)


@pytest.mark.parametrize("slope", [None, 0.1])
def test_gradients_are_those_of_the_definition(slope):
    def wanted(*operands):
        y = convolve(*operands)
        return y if slope is None else jnp.where(y > 0, y, slope * y)

    y, vjp = jax.vjp(functools.partial(on_tpu.run, convolve, slope), *OPERANDS)
    want, vjp_wanted = jax.vjp(wanted, *OPERANDS)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    cotangent = draw(*SHAPE, 16, seed=4)
    for found, want in zip(vjp(cotangent), vjp_wanted(cotangent), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_samples_are_not_kept():
    _, residuals = jax.eval_shape(functools.partial(on_tpu.run.fwd, convolve, 0.1), *OPERANDS)
    kept = {x.shape for x in jax.tree.leaves(residuals)}
    assert kept == {(64, 40), (216, 40), (1, 1, 576, 16), (16,), (16, 40)}
