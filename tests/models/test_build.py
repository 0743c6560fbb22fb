"""Networks by name: published sizes, fields, and the errors of a wrong name."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from stvsr_jax import models


def init_shapes(model, count=2):
    """Returns the parameters' shapes, computing nothing."""
    frames = jax.ShapeDtypeStruct((1, count, 8, 8, 3), jnp.float32)
    if isinstance(model, models.VideoINR):
        times = jax.ShapeDtypeStruct((1, 1), jnp.float32)

        def init(frames, times):
            return model.init(jax.random.key(0), frames, times, out_size=(8, 8))

        return jax.eval_shape(init, frames, times)["params"]
    return jax.eval_shape(lambda frames: model.init(jax.random.key(0), frames), frames)["params"]


@pytest.mark.parametrize(("name", "count"), [("zooming_slowmo", 11_102_771), ("videoinr", 10_978_615)])
def test_default_network_has_the_published_parameter_count(name, count):
    params = init_shapes(models.build(name))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_fields_reach_the_network(name):
    model = models.build(name, features=8, groups=4, front_blocks=3, back_blocks=2, remat=True)
    assert isinstance(model, nn.Module)
    encoder = init_shapes(model)["encoder"]
    assert encoder["front"]["blocks"]["conv1"]["kernel"].shape == (3, 3, 3, 8, 8)
    assert encoder["back"]["blocks"]["conv1"]["kernel"].shape == (2, 3, 3, 8, 8)
    deform = encoder["interpolate"]["align_a"]["level1_deform"]
    assert deform["head"]["bias"].shape == (27 * 4,)


def test_parameters_do_not_depend_on_compute_dtype_and_remat():
    sizes = dict(features=8, groups=2, front_blocks=1, back_blocks=1)
    plain = init_shapes(models.build("zooming_slowmo", **sizes))
    assert init_shapes(models.build("zooming_slowmo", **sizes, remat=True, dtype=jnp.bfloat16)) == plain


def test_unknown_name_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="'edvr'.*videoinr.*zooming_slowmo"):
        models.build("edvr")


@pytest.mark.parametrize("field", ["feature", "parent", "hidden"])
def test_unknown_field_is_named_with_the_known_ones(field):
    with pytest.raises(ValueError, match=rf"zooming_slowmo.*\['{field}'\].*back_blocks.*features"):
        models.build("zooming_slowmo", **{field: 1})


def test_features_that_do_not_divide_by_the_groups_are_named():
    with pytest.raises(ValueError, match="features=20.*groups=8"):
        models.build("videoinr", features=20)


@pytest.mark.parametrize(("name", "out_size"), [("zooming_slowmo", (32, 48)), ("videoinr", (27, 37))])
def test_render_runs_either_network_on_a_batch(name, out_size):
    model = models.build(name, features=8, groups=2, front_blocks=1, back_blocks=1)
    frames, times = jnp.zeros((2, 2, 8, 12, 3)), jnp.zeros((2, 3))
    params = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    out = jax.eval_shape(lambda p: models.render(model, p, frames, times, out_size=out_size), params)
    assert out.shape == (2, 3, *out_size, 3) and out.dtype == jnp.float32


@pytest.mark.parametrize(
    ("instants", "out_size", "named"),
    [(2, (32, 48), "3 frames of 32x48.*not 2 of 32x48"), (3, (16, 24), "not 3 of 16x24")],
)
def test_render_names_what_zooming_slowmo_cannot_make(instants, out_size, named):
    with pytest.raises(ValueError, match=named):
        models.render(
            models.build("zooming_slowmo"),
            {},
            jnp.zeros((1, 2, 8, 12, 3)),
            jnp.zeros((1, instants)),
            out_size=out_size,
        )
