"""The pixels that a bilinear sample reads, and their weights."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def corners_of(
    shape: Sequence[int], coords: jax.Array
) -> list[tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]]:
    """Returns the four corners of each coordinate: (y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1).

    Args:
      shape: (B, H, W, G, c) of the image.
      coords: [B, P, K, G, 2] (y, x) in pixels.

    Returns:
      (index, weight, its derivatives by y and x) of each, [B, P, K, G]: of a row of the image seen as [(b, y, x, g), c].
      A corner outside has the index of a pixel at the border, and weight and derivatives zero.
    """
    batch, height, width, groups, _ = shape
    coords = coords.astype(jnp.float32)
    floor = jnp.floor(coords)
    fraction = coords - floor
    floor = _to_integers(shape, floor)
    base = jnp.arange(batch, dtype=jnp.int32)[:, None, None, None] * (height * width * groups)
    base = base + jnp.arange(groups, dtype=jnp.int32)
    result = []
    for step_y in (0, 1):
        for step_x in (0, 1):
            y, x = floor[..., 0] + step_y, floor[..., 1] + step_x
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            index = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
            weight_y = fraction[..., 0] if step_y else 1.0 - fraction[..., 0]
            weight_x = fraction[..., 1] if step_x else 1.0 - fraction[..., 1]
            slope_y, slope_x = (1.0 if step_y else -1.0), (1.0 if step_x else -1.0)
            result.append(
                (
                    base + index * groups,
                    jnp.where(inside, weight_y * weight_x, 0.0),
                    (jnp.where(inside, slope_y * weight_x, 0.0), jnp.where(inside, slope_x * weight_y, 0.0)),
                )
            )
    return result


def pairs_of(
    shape: Sequence[int], coords: jax.Array
) -> list[tuple[jax.Array, tuple[jax.Array, ...], tuple[tuple[jax.Array, ...], ...]]]:
    """Returns the four corners as two pairs of neighbours: in the line of y and in that of y + 1.

    Args:
      shape: (B, H, W, G, c) of the image.
      coords: [B, P, K, G, 2] (y, x) in pixels.

    Returns:
      (index of the left pixel's row, weights, derivatives by y and by x) of each pair; the row of the right pixel is G
      later. Weights, and derivatives by each, are (left, right), [B, P, K, G].
    """
    width, groups = shape[2], shape[3]
    x = _to_integers(shape, jnp.floor(coords.astype(jnp.float32)))[..., 1]
    inside = jnp.clip(x, 0, width - 1)
    left = jnp.clip(x, 0, max(width - 2, 0))

    def place(a, b):  # of x and of x + 1
        lefts = jnp.where(x == left, a, jnp.where(x == left - 1, b, 0.0))  # x + 1 is the first column
        return lefts, jnp.where(x == left, b, jnp.where(x == left + 1, a, 0.0))  # x is the last one

    corners, pairs = corners_of(shape, coords), []
    for (index, a, slopes_a), (_, b, slopes_b) in (corners[:2], corners[2:]):
        slopes = tuple(place(*each) for each in zip(slopes_a, slopes_b, strict=True))
        pairs.append((index + (left - inside) * groups, place(a, b), slopes))
    return pairs


def _to_integers(shape, floor):
    """Returns whole coordinates as int32; those that are far away or not finite become others outside."""
    # They must not overflow the conversion.
    return jnp.clip(floor, -2.0, jnp.array(shape[1:3], jnp.float32) + 1.0).astype(jnp.int32)
