"""Networks by name and sizes."""

import jax
import pytest

from stvsr_jax.models.spec import ModelSpec, param_shapes


def test_architecture_fills_in_defaults_and_leaves_out_how_it_is_run():
    spec = ModelSpec("videoinr", {"features": 32, "remat": True, "dtype": "bfloat16", "hidden": [8, 8, 8]})
    assert spec.architecture() == {
        "features": 32,
        "front_blocks": 5,
        "back_blocks": 40,
        "groups": 8,
        "hidden": (8, 8, 8),
    }


def test_overrides_replace_fields():
    assert ModelSpec("zooming_slowmo", {"features": 32}).build(features=16).features == 16


@pytest.mark.parametrize(("name", "count"), [("zooming_slowmo", 11_102_771), ("videoinr", 10_978_615)])
def test_published_sizes_are_the_default(name, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(param_shapes(ModelSpec(name, {}).build()))) == count
