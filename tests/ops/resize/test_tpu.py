"""The TPU's reading on fixed grids, interpreted on the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.ops import upsample_bilinear_2x
from stvsr_jax.ops.lanes import from_lanes, to_lanes
from stvsr_jax.ops.resize import tpu


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def doubled(x):
    return upsample_bilinear_2x(x, 2.0)


def halved(x):
    return x[:, ::2, ::2]


SIZES = [(2, 4), (8, 8), (6, 70), (34, 12), (4, 200)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid, wanted", [(lambda size: tpu.double(size, 2.0), doubled), (tpu.halve, halved)])
def test_values_and_gradients_equal_the_definition(size, grid, wanted):
    x = draw(3, *size, 8)
    want, vjp = jax.vjp(wanted, x)
    found = tpu.run(grid(size), to_lanes(x), interpret=True)
    np.testing.assert_allclose(from_lanes(found, want.shape[:3]), want, rtol=1e-5, atol=1e-5)
    cotangent = draw(*want.shape, seed=1)
    found = tpu.run(grid(size), to_lanes(cotangent), is_transposed=True, interpret=True)
    np.testing.assert_allclose(from_lanes(found, x.shape[:3]), *vjp(cotangent), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make, wanted", [(tpu.double, upsample_bilinear_2x), (tpu.halve, halved)])
@pytest.mark.parametrize("scale", [1.0, -0.5])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_not_finite_stays_where_it_is_read(make, wanted, scale, dtype):
    def damage(values):
        values = values.at[0, 0, 0, 0].set(jnp.nan).at[0, 3, 5, 1].set(jnp.inf)
        values = values.at[-1, -1, -1, 2].set(-jnp.inf)
        return values.at[1, 2, 2, 3].set(jnp.inf).at[1, 2, 3, 3].set(-jnp.inf).astype(dtype)

    x = damage(draw(3, 8, 12, 8))
    grid = make((8, 12))._replace(scale=scale)
    want, vjp = jax.vjp(lambda x: scale * wanted(x), x.astype(jnp.float32))
    cotangent = damage(draw(*want.shape, seed=1))
    found = tpu.run(grid, to_lanes(x), interpret=True)
    np.testing.assert_allclose(from_lanes(found, want.shape[:3]), want, rtol=1e-2, atol=1e-2)
    found = tpu.run(grid, to_lanes(cotangent), is_transposed=True, interpret=True)
    want = vjp(cotangent.astype(jnp.float32))[0]
    np.testing.assert_allclose(from_lanes(found, x.shape[:3]), want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("size", [*SIZES, (90, 160), (180, 320), (45, 80), (16, 28), (8, 1001)])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("make", [tpu.double, tpu.halve])
def test_a_block_reads_all_that_it_needs(size, is_transposed, make):
    size = size if make is tpu.double else (size[0] // 2 * 2, size[1] // 2 * 2)
    grid, images = make(size), 2
    block, pieces = tpu._split(grid, is_transposed)
    pixels = images * int(np.prod(grid.size if is_transposed else grid.out_size))
    places = [np.arange(images * int(np.prod(s))) for s in (grid.size, grid.out_size)]
    y, x = (np.asarray(a) for a in tpu._place(grid, jnp.asarray(places[0])))
    read_y, read_x = (np.asarray(a) for a in tpu._place_of_read(grid, jnp.asarray(places[1])))
    for number in range(0, -(-pixels // block)):
        here = np.arange(number * block, min(pixels, (number + 1) * block))[[0, -1]]
        first = 128 * int(tpu._first_piece(grid, is_transposed, block, jnp.int32(number)))
        for pixel in here:
            if is_transposed:
                needed = np.flatnonzero((abs(read_y - y[pixel]) < 1) & (abs(read_x - x[pixel]) < 1))
            else:
                needed = np.flatnonzero((abs(y - read_y[pixel]) < 1) & (abs(x - read_x[pixel]) < 1))
            assert needed.size == 0 or first <= needed.min() and needed.max() < first + 128 * pieces


def test_16_bits_are_rounded_once():
    x = draw(1, 8, 8, 16).astype(jnp.bfloat16)
    found = tpu.run(tpu.double((8, 8)), to_lanes(x), interpret=True)
    want = upsample_bilinear_2x(x.astype(jnp.float32)).astype(jnp.bfloat16)
    assert jnp.array_equal(from_lanes(found, want.shape[:3]), want)


def test_what_is_not_supported_is_said():
    x = jnp.zeros((1, 4, 4, 64), jnp.bfloat16)
    assert tpu.is_supported(x)
    assert not tpu.is_supported(x[..., :3]) and not tpu.is_supported(x.astype(jnp.float16))
