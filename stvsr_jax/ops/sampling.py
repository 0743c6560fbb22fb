"""Sampling images at real coordinates.

Coordinates are (y, x) in pixels with pixel centres at integers. Deformable convolution and the warps of VideoINR are
built on `bilinear_sample`. It has a custom VJP, so that gradients are accumulated in float32 whatever the image's dtype.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from stvsr_jax.ops.devices import is_for_tpu
from stvsr_jax.ops.lanes import from_lanes, to_lanes


def bilinear_sample(image: jax.Array, coords: jax.Array) -> jax.Array:
    """Reads an image bilinearly; every corner outside the image counts as zero.

    The corners are floor and floor + 1 even at integer coordinates, so the gradient with respect to
    the coordinates is the slope to the right and below there, not zero.

    Args:
      image: [B, H, W, C], any float dtype.
      coords: [B, ..., 2] (y, x) in pixels, float32.

    Returns:
      [B, ..., C] in the dtype of the image; the interpolation is float32.

    Raises:
      ValueError: the shapes do not fit.
    """
    _check_shapes("bilinear_sample", image, coords)
    batch, height, width, channels = image.shape
    points = coords.reshape(batch, -1, 1, 1, 2)
    values = sample_groups(image.reshape(batch, height, width, 1, channels), points)
    return values.reshape(*coords.shape[:-1], channels)


def interpolate_frames(frames: jax.Array, positions: jax.Array) -> jax.Array:
    """Interpolates linearly in time between the two frames next to each position.

    Args:
      frames: [B, N, H, W, C] float, one frame per unit of time.
      positions: [B, T] float32 in [0, N - 1]: position n is frame n.

    Returns:
      [B, T, H, W, C] in the dtype of the frames.

    Raises:
      ValueError: the shapes do not fit.
    """
    if frames.ndim != 5 or positions.ndim != 2 or frames.shape[0] != positions.shape[0]:
        raise ValueError(
            "interpolate_frames: frames must be [B, N, H, W, C] and positions [B, T] with the same B, "
            f"got {frames.shape} and {positions.shape}"
        )
    before = jnp.floor(positions).astype(jnp.int32)
    after = jnp.minimum(before + 1, frames.shape[1] - 1)
    share = (positions - before)[:, :, None, None, None].astype(frames.dtype)
    take = jax.vmap(lambda clip, index: clip[index])
    return take(frames, before) * (1 - share) + take(frames, after) * share


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of a table, in two forms: the values, and the indices and weights to gather them with.

    A fused kernel gathers rows of the table itself and leaves `values` unused. Other back ends read `values` and leave the
    rest unused. XLA eliminates what is unused. Gradients flow through `values` only.

    Attributes:
      values: [..., C] in the dtype of the table: sum over k of weight[k] * table[index[k]], accumulated in float32.
      table: [N, C], for images the pixels of all images.
      index: [K, ...] int32, rows of the table; K = 4 corners for bilinear samples.
      weight: [K, ...] float32.
    """

    values: jax.Array
    table: jax.Array
    index: jax.Array
    weight: jax.Array

    @classmethod
    def bilinear(cls, image: jax.Array, coords: jax.Array) -> "Samples":
        """Returns `bilinear_sample(image, coords)` in both forms; same arguments and errors."""
        values = bilinear_sample(image, coords)
        image, coords = jax.lax.stop_gradient((jnp.asarray(image), coords))
        batch, height, width, channels = image.shape
        corners = _corners((batch, height, width, 1, channels), coords.reshape(batch, -1, 1, 1, 2))
        index, weight = (jnp.stack(a) for a in list(zip(*corners, strict=True))[:2])
        return cls(values, image.reshape(-1, channels), index, weight).reshape(coords.shape[:-1])

    def reshape(self, shape: tuple[int, ...]) -> "Samples":
        """Returns the samples with other leading axes, [*shape, C]."""
        values = self.values.reshape(*shape, self.values.shape[-1])
        index, weight = (a.reshape(-1, *shape) for a in (self.index, self.weight))
        return Samples(values, self.table, index, weight)


def values_of(tree: Any) -> Any:
    """Returns a tree with each `Samples` replaced by its values."""

    def is_samples(x):
        return isinstance(x, Samples)

    return jax.tree.map(lambda x: x.values if is_samples(x) else x, tree, is_leaf=is_samples)


def _check_shapes(function, image, coords):
    if image.ndim != 4 or coords.ndim < 2 or coords.shape[-1] != 2 or coords.shape[0] != image.shape[0]:
        raise ValueError(
            f"{function}: image must be [B, H, W, C] and coords [B, ..., 2] with the same B, "
            f"got {image.shape} and {coords.shape}"
        )


@jax.custom_vjp
def sample_groups(image: jax.Array, coords: jax.Array) -> jax.Array:
    """Reads each channel group of an image bilinearly at its own coordinates.

    Args:
      image: [B, H, W, G, c].
      coords: [B, P, K, G, 2] (y, x) in pixels, float32.

    Returns:
      [B, P, K, G, c] in the dtype of the image.
    """
    image = jnp.asarray(image)
    return _sample_in_parts(image, coords) if is_for_tpu() else _sample(image, coords)


def _sample(image, coords):
    corners = _corners(image.shape, coords)
    rows = image.reshape(-1, image.shape[-1])
    values = [rows[index].astype(jnp.float32) * weight[..., None] for index, weight, _ in corners]
    return functools.reduce(jnp.add, values).astype(image.dtype)


# On a TPU so many samples are made at a time that what is gathered stays in VMEM: XLA fuses no gather and no scatter with
# what is around them. It stores the four rows that each sample reads, padded to 128 channels. What enters and leaves the
# loop has samples along the lanes, so that it is not padded.
_TPU_SAMPLES = 2**14


def _split(points, fill):
    """Returns [B, P, K, G, n] as [B, parts, n, p K G], with `fill` after the last point."""
    batch, count, *rest = points.shape
    least = -(-count * rest[0] * rest[1] // _TPU_SAMPLES)
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


def _fix_lanes(x):
    """Returns `to_lanes(x)` in memory, too: XLA would store it as the gather makes it, padded."""
    return with_layout_constraint(to_lanes(x), Layout((0, 1)))


def _sample_in_parts(image, coords):
    shape = coords.shape[:-1]

    def of_image(args):
        image, coords = args

        def of_part(coords):
            return _fix_lanes(_sample(image[None], from_lanes(coords, (1, -1, *shape[2:]))))

        return jax.lax.map(of_part, coords)

    values = jax.lax.map(of_image, (image, _split(coords, -2.0)))  # outside of the image
    return _join(values, shape)


def _differentiate_in_parts(image, coords, cotangent):
    shape = coords.shape[:-1]

    def of_image(args):
        image, *parts = args

        def add(total, part):
            part = [from_lanes(x, (1, -1, *shape[2:])) for x in part]
            d_image, d_coords = _differentiate(image[None], *part)
            return total + d_image, to_lanes(d_coords)

        total, d_coords = jax.lax.scan(add, jnp.zeros((1, *image.shape), jnp.float32), tuple(parts))
        return _fix_lanes(total.astype(image.dtype)), d_coords

    d_image, d_coords = jax.lax.map(of_image, (image, _split(coords, -2.0), _split(cotangent, 0.0)))
    return d_image.swapaxes(1, 2).reshape(image.shape), _join(d_coords, shape)


def _corners(shape, coords):
    """Returns (row index, weight, d weight / d (y, x)) of the four corners, zero weight outside.

    The index is into the image seen as rows [(b, y, x, g), c]; index and weight are [B, P, K, G].
    """
    batch, height, width, groups, _ = shape
    coords = coords.astype(jnp.float32)
    floor = jnp.floor(coords)
    fraction = coords - floor
    # Far-away or non-finite coordinates must not overflow the integer conversion.
    floor = jnp.clip(floor, -2.0, jnp.array([height, width], jnp.float32) + 1.0).astype(jnp.int32)
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


def _sample_groups_forward(image, coords):
    return sample_groups(image, coords), (jnp.asarray(image), coords)


def _sample_groups_backward(residuals, cotangent):
    differentiate = _differentiate_in_parts if is_for_tpu() else _differentiate
    image, coords = residuals
    d_image, d_coords = differentiate(image, coords, cotangent)
    return d_image.astype(image.dtype), d_coords


def _differentiate(image, coords, cotangent):
    """Returns the gradients of image, float32, and coords."""
    cotangent = cotangent.astype(jnp.float32)
    rows = image.reshape(-1, image.shape[-1])
    d_y = d_x = 0.0
    for index, _, (slope_y, slope_x) in _corners(image.shape, coords):
        along = jnp.sum(cotangent * rows[index].astype(jnp.float32), axis=-1)  # [B, P, K, G]
        d_y, d_x = d_y + along * slope_y, d_x + along * slope_x
    d_coords = jnp.stack([d_y, d_x], axis=-1).astype(coords.dtype)
    return spread_groups(cotangent, coords, image.shape), d_coords


def spread_groups(values: jax.Array, coords: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Scatter-adds values to the pixels that `sample_groups` reads, with the same weights: its transpose.

    Args:
      values: [B, P, K, G, c].
      coords: [B, P, K, G, 2] (y, x) in pixels, float32.
      shape: (B, H, W, G, c) of the image.

    Returns:
      [B, H, W, G, c] float32.
    """
    rows = jnp.zeros((math.prod(shape[:-1]), shape[-1]), jnp.float32)
    indices, weights, _ = zip(*_corners(shape, coords), strict=True)
    weighted = values.astype(jnp.float32) * jnp.stack(weights)[..., None]
    return rows.at[jnp.stack(indices)].add(weighted).reshape(shape)


sample_groups.defvjp(_sample_groups_forward, _sample_groups_backward)


def nearest_sample(image: jax.Array, coords: jax.Array) -> jax.Array:
    """Reads the pixel nearest to each coordinate; zero outside the image.

    Ties go to the even neighbour, as in PyTorch's `grid_sample`. No gradient reaches the coordinates.

    Args:
      image: [B, H, W, C].
      coords: [B, ..., 2] (y, x) in pixels.

    Returns:
      [B, ..., C].

    Raises:
      ValueError: the shapes do not fit.
    """
    _check_shapes("nearest_sample", image, coords)
    batch, height, width, channels = image.shape
    nearest = jnp.round(jax.lax.stop_gradient(coords))
    nearest = jnp.clip(nearest, -1.0, jnp.array([height, width], nearest.dtype)).astype(jnp.int32)
    y, x = nearest[..., 0], nearest[..., 1]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
    flat = index.reshape(batch, -1, 1)
    values = jnp.take_along_axis(image.reshape(batch, height * width, channels), flat, axis=1)
    values = values.reshape(*coords.shape[:-1], channels)
    return jnp.where(inside[..., None], values, jnp.zeros((), image.dtype))


def normalized_to_pixels(points: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Maps [-1, 1], whose ends are the outer edges of the image, to pixels (y, x).

    Args:
      points: [..., 2] (y, x) in [-1, 1].
      size: (H, W) of the image.

    Returns:
      [..., 2] (y, x) in pixels: -1 maps to -0.5 and 1 to size - 0.5.
    """
    scale = np.asarray(size, np.float32)
    return ((points + 1.0) * scale - 1.0) / 2.0


def grid_sample(image: jax.Array, grid: jax.Array, *, mode: str = "bilinear") -> jax.Array:
    """Samples an image at normalised coordinates, zero outside.

    The values of PyTorch's `grid_sample(..., padding_mode='zeros', align_corners=False)`.

    Args:
      image: [B, H, W, C].
      grid: [B, ..., 2] in PyTorch's order (x, y), [-1, 1] from outer edge to outer edge.
      mode: 'bilinear' or 'nearest'.

    Returns:
      [B, ..., C].

    Raises:
      ValueError: unknown mode.
    """
    samplers = {"bilinear": bilinear_sample, "nearest": nearest_sample}
    if mode not in samplers:
        raise ValueError(f"grid_sample: mode {mode!r} is not one of {sorted(samplers)}")
    coords = normalized_to_pixels(grid[..., ::-1].astype(jnp.float32), image.shape[1:3])
    return samplers[mode](image, coords)
