"""Mean absolute offsets against known heads, inside and outside of loops, and at no cost when nobody asks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.models import offsets
from stvsr_jax.models.deform import DeformConv

SMALL = dict(features=8, front_blocks=1, back_blocks=1, groups=2)


def is_head_bias(path):
    return [key.key for key in path[-2:]] == ["head", "bias"]


def draw_with_offsets(model, groups, pixels):
    """Return parameters whose heads put out constant offsets: zero but for the bias of the offset channels."""
    shapes = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path[-2].key != "head":
            return rng.normal(0, 0.1, x.shape).astype(x.dtype)
        value = np.zeros(x.shape, x.dtype)
        if is_head_bias(path):
            value[: 18 * groups] = pixels
        return value

    return jax.tree_util.tree_map_with_path(draw, shapes)


def test_mean_absolute_offset_of_one_convolution():
    module, x = DeformConv(4, groups=2), jnp.ones((1, 5, 6, 4))
    variables = module.init(jax.random.key(0), x, x)
    bias = np.zeros(54, np.float32)
    bias[:36:2] = -3.0  # y; x stays 0
    variables["params"]["head"]["bias"] = jnp.asarray(bias)
    with offsets.collect() as found:
        module.apply(variables, x, x)
    np.testing.assert_allclose(found, [1.5])


@pytest.mark.parametrize("remat", [False, True])
def test_every_deformable_convolution_of_a_network_is_found(remat):
    model = models.build("zooming_slowmo", **SMALL, remat=remat)
    params = draw_with_offsets(model, 2, -0.25)
    frames = jax.random.uniform(jax.random.key(1), (1, 2, 8, 8, 3))

    def measure(params, frames):
        with offsets.collect() as found:
            model.apply({"params": params}, frames)
        return found

    # With remat the values are the same: that they are found is what is shown.
    found = jax.eval_shape(measure, params, frames) if remat else jax.jit(measure)(params, frames)
    # 2 alignments of 3 levels between the frames, once; the same for both states at each of 3 times.
    assert sorted(x.shape for x in found) == [()] * 6 + [(3,)] * 12
    heads = [path for path, _ in jax.tree_util.tree_leaves_with_path(params) if is_head_bias(path)]
    assert len(found) == len(heads) == 18
    for values in () if remat else found:
        np.testing.assert_allclose(values, 0.25, rtol=1e-6)


def test_program_is_the_same_when_nobody_collects(monkeypatch):
    model = models.build("zooming_slowmo", **SMALL)
    params = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    frames = jax.ShapeDtypeStruct((1, 2, 8, 8, 3), jnp.float32)

    def program():
        return str(jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(params, frames))

    first = program()
    monkeypatch.setattr(offsets, "record", lambda offset: None)
    assert program() == first
