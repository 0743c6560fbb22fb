"""The TPU's deformable convolution, interpreted on the CPU: blocks, halos and what lies outside of the images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import ops
from stvsr_jax.ops.deform_conv import tpu
from stvsr_jax.ops.deform_conv.tpu import Plan

SIZE = (9, 13)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("size", [(4, 4), (16, 28), (180, 320), (33, 1001)])
@pytest.mark.parametrize("images", [1, 7])
def test_halos_hold_what_a_block_can_read(size, images):
    plan = Plan.of(images * size[0] * size[1], size)
    assert plan.halo >= 3 * size[1] + 3  # a tap and a shift of two
    assert plan.block % plan.halo == 0 and plan.halo % 128 == 0
    assert (plan.count - 1) * plan.block < plan.pixels <= plan.count * plan.block


def test_padding_is_undone():
    plan = Plan.of(2 * 9 * 13, SIZE)
    image = draw(64, plan.pixels)
    padded = tpu.pad(plan, image)
    assert padded.shape == (64, plan.padded)
    assert jnp.array_equal(tpu.unpad(plan, padded), image)


@pytest.mark.parametrize("by", [0, 1, -1, 127, 128, -200, 511, 100_000])
def test_images_roll(monkeypatch, by):
    monkeypatch.setattr(tpu, "_BLOCK", 128)
    plan = Plan.of(2 * 9 * 13, SIZE)
    image = draw(64, plan.padded).astype(jnp.bfloat16)
    found = tpu.roll(plan, image, jnp.int32(by), interpret=True)
    assert jnp.array_equal(found, jnp.roll(image, by, axis=1))


def test_blocks_meet(monkeypatch):
    monkeypatch.setattr(tpu, "_BLOCK", 128)
    plan = Plan.of(2 * 9 * 13, SIZE)
    assert plan.count == 2
    x, kernel = draw(2, *SIZE, 64), draw(576, 64, seed=1)
    head = jnp.clip(draw(2, *SIZE, 216, seed=2), -1.99, 1.99)
    run = jax.jit(lambda *a: tpu.run(plan, jnp.zeros(2, jnp.int32), *a, interpret=True))
    image = tpu.pad(plan, x.reshape(-1, 64).T)
    found = run(image, head.reshape(-1, 216).T, kernel).T.reshape(x.shape)
    want = ops.deform_columns(x, head, groups=8, implementation="gather") @ kernel
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
