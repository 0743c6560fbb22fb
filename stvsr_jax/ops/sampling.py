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

from stvsr_jax.ops.corners import corners_of
from stvsr_jax.ops.devices import is_for_tpu
from stvsr_jax.ops.pixel_pairs import pair, sample_pairs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampledImage:
    """An image as samples are read from it: made once, where a loop reads it or several samples do.

    Attributes:
      pixels: [B, H, W, C].
      table: on a TPU its `pixel_pairs.pair`, elsewhere None.
    """

    pixels: jax.Array
    table: jax.Array | None

    @classmethod
    def of(cls, image: jax.Array) -> "SampledImage":
        """Returns an image [B, H, W, C] for the device of the program that is traced."""
        return cls(image, pair(image, 1) if is_for_tpu() else None)


def bilinear_sample(image: jax.Array | SampledImage, coords: jax.Array) -> jax.Array:
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
    table = image.table if isinstance(image, SampledImage) else None
    image = image.pixels if isinstance(image, SampledImage) else image
    _check_shapes("bilinear_sample", image, coords)
    batch, height, width, channels = image.shape
    points = coords.reshape(batch, -1, 1, 1, 2)
    if table is None:
        values = sample_groups(image.reshape(batch, height, width, 1, channels), points)
    else:
        values = sample_pairs(table, points)
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
    def bilinear(cls, image: jax.Array | SampledImage, coords: jax.Array) -> "Samples":
        """Returns `bilinear_sample(image, coords)` in both forms; same arguments and errors."""
        values = bilinear_sample(image, coords)
        image = image.pixels if isinstance(image, SampledImage) else image
        image, coords = jax.lax.stop_gradient((jnp.asarray(image), coords))
        batch, height, width, channels = image.shape
        corners = corners_of((batch, height, width, 1, channels), coords.reshape(batch, -1, 1, 1, 2))
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


def sample_groups(image: jax.Array, coords: jax.Array) -> jax.Array:
    """Reads each channel group of an image bilinearly at its own coordinates.

    Args:
      image: [B, H, W, G, c].
      coords: [B, P, K, G, 2] (y, x) in pixels, float32.

    Returns:
      [B, P, K, G, c] in the dtype of the image.
    """
    if not is_for_tpu():
        return _sample_groups(image, coords)
    batch, height, width, groups, channels = image.shape
    lines = jnp.asarray(image).reshape(batch, height, width * groups, channels)
    return sample_pairs(pair(lines, groups), coords)


@jax.custom_vjp
def _sample_groups(image, coords):
    return _sample(jnp.asarray(image), coords)


def _sample(image, coords):
    corners = corners_of(image.shape, coords)
    rows = image.reshape(-1, image.shape[-1])
    values = [rows[index].astype(jnp.float32) * weight[..., None] for index, weight, _ in corners]
    return functools.reduce(jnp.add, values).astype(image.dtype)


def _sample_groups_forward(image, coords):
    return _sample_groups(image, coords), (jnp.asarray(image), coords)


def _sample_groups_backward(residuals, cotangent):
    image, coords = residuals
    d_image, d_coords = _differentiate(image, coords, cotangent)
    return d_image.astype(image.dtype), d_coords


def _differentiate(image, coords, cotangent):
    """Returns the gradients of image, float32, and coords."""
    cotangent = cotangent.astype(jnp.float32)
    rows = image.reshape(-1, image.shape[-1])
    d_y = d_x = 0.0
    for index, _, (slope_y, slope_x) in corners_of(image.shape, coords):
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
    indices, weights, _ = zip(*corners_of(shape, coords), strict=True)
    weighted = values.astype(jnp.float32) * jnp.stack(weights)[..., None]
    return rows.at[jnp.stack(indices)].add(weighted).reshape(shape)


_sample_groups.defvjp(_sample_groups_forward, _sample_groups_backward)


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
