"""The samples of TPU programs, and their gradients, against those of other devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.ops import pixel_pairs
from stvsr_jax.ops.sampling import SampledImage, bilinear_sample, sample_groups

DEVICE = AbstractDevice(device_kind="any", num_cores=None, platform="tpu")


def run(image, coords):
    y, vjp = jax.vjp(sample_groups, image, coords)
    return y, *vjp(jnp.cos(y.astype(jnp.float32)).astype(y.dtype))


def run_prepared(image, coords):
    """The same of one group, twice from one table."""

    def samples(image, coords):
        prepared = SampledImage.of(image[..., 0, :])
        both = [bilinear_sample(prepared, c[:, :, 0, 0]) for c in jnp.split(coords, 2, axis=1)]
        return jnp.concatenate(both, axis=1)[:, :, None, None]

    y, vjp = jax.vjp(samples, image, coords)
    return y, *vjp(jnp.cos(y))


def run_as_on_a_tpu(image, coords, run=run, loops=6):
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=DEVICE)):
        traced = jax.jit(run).trace(image, coords)
    assert (
        str(traced.jaxpr).count("scan[") == loops
    )  # bands of lines and their gradient; images and their parts, forward and backward
    lowered = traced.lower(lowering_platforms=("cpu",))
    return lowered.compile(device_assignment=(jax.devices()[0],))(image, coords)


@pytest.mark.parametrize(
    "size, groups, dtype",
    [((5, 6), 1, "float32"), ((4, 1), 2, "float32"), ((1, 2), 2, "bfloat16"), ((1, 1), 1, "float32")],
)
def test_pairs_give_what_four_corners_give(monkeypatch, size, groups, dtype):
    monkeypatch.setattr(pixel_pairs, "_SAMPLES", 10)  # of 28 and more of an image: the last part is not full
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(3, *size, groups, 4)), dtype)
    coords = rng.uniform(-2, 7, size=(3, 14, 2, groups, 2)).astype(np.float32)
    coords[0, :4] = np.round(coords[0, :4])  # whole ones
    coords[1, 0], coords[2, 1] = 1e9, -1e30
    got, want = run_as_on_a_tpu(image, coords), jax.jit(run)(image, coords)
    tolerance = 1e-5 if dtype == "float32" else 0.03
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and np.abs(np.float32(b)).max() > 0
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance)


def test_a_table_is_made_once_for_several_samples():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(2, 5, 6, 1, 4)).astype(np.float32)
    coords = rng.uniform(-2, 7, size=(2, 14, 1, 1, 2)).astype(np.float32)
    got = run_as_on_a_tpu(image, coords, run_prepared, loops=2 + 2 * 4)
    for a, b, c in zip(got, jax.jit(run)(image, coords), jax.jit(run_prepared)(image, coords), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-5)


def test_a_sample_gathers_two_rows_and_its_gradient_scatters_two():
    image = jax.ShapeDtypeStruct((1, 8, 8, 1, 64), jnp.bfloat16)
    coords = jax.ShapeDtypeStruct((1, 128, 1, 1, 2), jnp.float32)
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=DEVICE)):
        text = str(jax.jit(run).trace(image, coords).jaxpr)
    assert text.count("gather[") == 4 and text.count("scatter-add[") == 1
    assert text.count("slice_sizes=(1, 128)") == 4 and "f32[2,1,128,1,1,128]" in text
