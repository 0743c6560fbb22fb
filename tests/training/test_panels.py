"""Pictures of held-out windows: which instant they show, and that every column is what it says."""

import jax
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.runtime import sharding
from stvsr_jax.training import panels


@pytest.fixture
def panel_step(linear_config):
    return panels.make_panel_step(models.build("linear"), sharding.make_mesh())


def identity():
    """Return parameters with which the linear network repeats pixels."""
    return {"into": np.eye(3, 4, dtype=np.float32), "out": np.eye(4, 3, dtype=np.float32)}


def make_batch(count, seed=0):
    """Return a batch of windows of `count` input frames of 4x8 pixels, all between two levels of 8 bits."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (2, count, 4, 8, 3)).astype(np.float32) / 255
    times = np.tile(np.linspace(0, 1, 2 * count - 1, dtype=np.float32), (2, 1))
    return {"frames": frames, "target": rng.random((2, 2 * count - 1, 16, 32, 3)).astype("f"), "times": times}


@pytest.mark.parametrize(("count", "instant", "given"), [(2, 1, 0), (3, 3, 1), (4, 3, 1)])
def test_columns_are_input_bicubic_model_and_target_of_an_instant_between_frames(
    panel_step, count, instant, given
):
    batch = make_batch(count)
    out = np.asarray(panel_step(identity(), batch))
    assert out.shape == (2, 16, 4 * 32, 3) and out.dtype == np.uint8
    pixels, bicubic, model, target = np.split(out, 4, axis=2)
    enlarged = (255 * batch["frames"]).round().repeat(4, axis=2).repeat(4, axis=3)
    np.testing.assert_array_equal(pixels, enlarged[:, given])
    blend = (enlarged[:, given] + enlarged[:, given + 1]) / 2
    np.testing.assert_allclose(model, blend, atol=0.51)
    np.testing.assert_allclose(target, 255 * batch["target"][:, instant], atol=0.51)
    # Bicubic enlargement keeps the mean up to the borders and clamping.
    np.testing.assert_allclose(bicubic.mean(), blend.mean(), rtol=0.02)
    assert not np.array_equal(bicubic, model)


def test_as_many_are_rendered_as_there_are(panel_step):
    mesh = sharding.make_mesh()
    for count, expected in ((0, 0), (3, 3), (9, 4)):
        batches = [make_batch(2, seed) for seed in range(2)]
        found = list(panels.render(panel_step, jax.device_put(identity()), batches, mesh, count=count))
        assert len(found) == expected
    assert not np.array_equal(found[0], found[2])
