"""Initial parameters and states: drawn as the model says, placed as the mesh says."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.models import siren
from stvsr_jax.models.deform import DeformConv
from stvsr_jax.models.layers import Conv, ResidualStack
from stvsr_jax.runtime import sharding
from stvsr_jax.training import optim, train_state

OPTIMIZER = optim.make_optimizer(optim.OptimizerConfig(1e-2, 1e-3, 10, 0.9, 0.99))


class Small(nn.Module):
    """Has the kinds of layers that draw: a scanned stack, a deformable convolution and a SIREN."""

    contract = models.contract_of("videoinr")

    @nn.compact
    def __call__(self, frames, times, *, out_size):
        x = Conv(4)(ResidualStack(3, num_blocks=2)(frames[0]))
        siren.Siren((("features", 4),), (8, 3))()
        return DeformConv(4, groups=2)(x, x)


def test_piecewise_drawing_equals_the_initialisers():
    model, key = Small(), jax.random.key(3)
    expected = jax.jit(lambda key: models.init_params(model, key))(key)
    found = train_state.draw_params(model, key)
    assert jax.tree.structure(found) == jax.tree.structure(expected) and len(jax.tree.leaves(found)) == 14
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), found, expected)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("has_ema", [True, False])
def test_description_is_of_what_is_created(linear_config, has_ema):
    model, mesh = models.build("linear"), sharding.make_mesh()
    params = train_state.draw_params(model, jax.random.key(0))
    state = train_state.create_on(mesh, params, OPTIMIZER, has_ema=has_ema)
    described = train_state.describe(model, OPTIMIZER, mesh, has_ema=has_ema)
    assert jax.tree.structure(state) == jax.tree.structure(described)
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(described), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (other.shape, other.dtype, other.sharding)


def test_average_begins_as_a_copy_and_is_preferred(linear_config):
    params = train_state.draw_params(models.build("linear"), jax.random.key(0))
    state = train_state.create(params, OPTIMIZER, has_ema=True)
    jax.tree.map(np.testing.assert_array_equal, state.ema, params)
    assert state.best_params is state.ema and (state.step, state.skipped, state.rollbacks) == (0, 0, 0)
    state = train_state.create(params, OPTIMIZER, has_ema=False)
    assert state.ema is None and state.best_params is state.params
