"""Bilinear samples of a program for TPUs, with their gradients.

A TPU pads what it gathers to 128 channels. So a row of the table that is gathered from holds a pixel and its right
neighbour, 64 channels each: half as many rows are read, without padding.

Some samples are made at a time: what is gathered stays in VMEM then. XLA fuses no gather and no scatter with what is around
them. What enters and leaves the loop has samples along the lanes, so that it is not padded.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from stvsr_jax.ops.corners import pairs_of
from stvsr_jax.ops.lanes import from_lanes, to_lanes

_SAMPLES = 2**14  # at a time


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def pair(image: jax.Array, groups: int) -> jax.Array:
    """Returns the table of an image: of each pixel its channels and those of its right neighbour.

    Args:
      image: [B, H, W G, c].
      groups: G.

    Returns:
      [B, H, W G, 2 c]. What stands beside the last pixel of a line is not read.
    """
    batch, height, width, channels = image.shape
    most = max(1, _SAMPLES // width)
    lines = next((n for n in range(min(most, height), most // 2, -1) if height % n == 0), height)
    bands = image.reshape(batch * height // lines, lines * width, channels).swapaxes(1, 2)

    def of_band(band):  # [c, P] -> [P, 2 c]
        rows = band.T
        return jnp.concatenate([rows, jnp.pad(rows[groups:], ((0, groups), (0, 0)))], axis=1)

    bands = with_layout_constraint(bands, Layout((0, 1, 2)))  # otherwise XLA would pad them first
    return jax.lax.map(of_band, bands).reshape(batch, height, width, 2 * channels)


def _pair_forward(image, groups):
    return pair(image, groups), None


def _pair_backward(groups, _, cotangent):
    batch, height, width, channels = cotangent.shape

    def of_image(table):  # nothing is beside the last pixel of a line
        left, right = jnp.split(table.reshape(-1, channels), 2, axis=1)
        return _fix_lanes(left + jnp.roll(right, groups, axis=0))

    d_image = jax.lax.map(of_image, cotangent)  # [B, c, H W G]
    return (d_image.swapaxes(1, 2).reshape(batch, height, width, channels // 2),)


pair.defvjp(_pair_forward, _pair_backward)


@jax.custom_vjp
def sample_pairs(table: jax.Array, coords: jax.Array) -> jax.Array:
    """Reads each channel group of an image bilinearly at its own coordinates.

    Args:
      table: [B, H, W G, 2 c], from `pair`.
      coords: [B, P, K, G, 2] (y, x) in pixels, float32.

    Returns:
      [B, P, K, G, c] in the dtype of the table.
    """
    shape = coords.shape[:-1]

    def of_image(args):
        table, coords = args

        def of_part(coords):
            values = _sample(table, from_lanes(coords, (1, -1, *shape[2:])))
            return _fix_lanes(values.astype(table.dtype))

        return jax.lax.map(of_part, coords)

    values = jax.lax.map(of_image, (table, _split(coords, -2.0)))  # outside of the image
    return _join(values, shape)


def _sample_forward(table, coords):
    return sample_pairs(table, coords), (table, coords)


def _sample_backward(residuals, cotangent):
    table, coords = residuals
    shape = coords.shape[:-1]

    def of_image(args):
        table, *parts = args

        def add(total, part):
            part = [from_lanes(x, (1, -1, *shape[2:])) for x in part]
            total, d_coords = _differentiate(table, total, *part)
            return total, to_lanes(d_coords)

        total, d_coords = jax.lax.scan(add, jnp.zeros(table.shape, jnp.float32), tuple(parts))
        return total.astype(table.dtype), d_coords

    d_table, d_coords = jax.lax.map(of_image, (table, _split(coords, -2.0), _split(cotangent, 0.0)))
    return d_table, _join(d_coords, shape)


sample_pairs.defvjp(_sample_forward, _sample_backward)


def _sample(table, coords):
    channels, rows, total = table.shape[-1] // 2, table.reshape(-1, table.shape[-1]), 0.0
    for index, (left, right), _ in pairs_of(_size(table, coords), coords):
        pair = rows[index].astype(jnp.float32)  # [1, P, K, G, 2 c]
        total = total + pair[..., :channels] * left[..., None] + pair[..., channels:] * right[..., None]
    return total


def _differentiate(table, total, coords, cotangent):
    """Returns the gradient of the table, added to a total, and that of the coordinates."""
    channels, rows = table.shape[-1] // 2, table.reshape(-1, table.shape[-1])
    d_coords, indices, updates = [0.0, 0.0], [], []
    cotangent = cotangent.astype(jnp.float32)
    for index, weights, slopes in pairs_of(_size(table, coords), coords):
        pair = rows[index].astype(jnp.float32)  # [1, P, K, G, 2 c]
        left, right = (jnp.sum(cotangent * x, axis=-1) for x in (pair[..., :channels], pair[..., channels:]))
        d_coords = [d + left * a + right * b for d, (a, b) in zip(d_coords, slopes, strict=True)]
        indices.append(index)
        updates.append(jnp.concatenate([cotangent * weight[..., None] for weight in weights], axis=-1))
    d_rows = total.reshape(rows.shape).at[jnp.stack(indices)].add(jnp.stack(updates))
    return d_rows.reshape(table.shape), jnp.stack(d_coords, axis=-1).astype(coords.dtype)


def _size(table, coords):
    """Returns (1, H, W, G, c) of one image's table."""
    height, width, channels = table.shape
    groups = coords.shape[-2]
    return 1, height, width // groups, groups, channels // 2


def _fix_lanes(x):
    """Returns `to_lanes(x)` in memory, too: XLA would store it as the gather makes it, padded."""
    return with_layout_constraint(to_lanes(x), Layout((0, 1)))


def _split(points, fill):
    """Returns [B, P, K, G, n] as [B, parts, n, p K G], with `fill` after the last point."""
    batch, count, *rest = points.shape
    least = -(-count * rest[0] * rest[1] // _SAMPLES)
    # Whole tiles: XLA is slow to compile other copies. None is filled if some number of parts divides.
    parts = next((n for n in range(least, 2 * least + 1) if count % (128 * n) == 0), least)
    each = -(-count // parts // 128) * 128
    pads = ((0, 0), (0, each * parts - count), (0, 0), (0, 0), (0, 0))
    points = jnp.pad(points, pads, constant_values=fill)
    return points.reshape(batch, parts, -1, rest[-1]).swapaxes(2, 3)


def _join(parts, shape):
    """Undoes `_split`; `shape` is (B, P, K, G)."""
    batch, count, *groups = shape
    points = parts.swapaxes(2, 3).reshape(batch, -1, *groups, parts.shape[2])
    return points[:, :count]
