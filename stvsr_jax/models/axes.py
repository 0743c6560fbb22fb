"""Nearest and bilinear resampling in VideoINR, one axis at a time: indices and weights of low-resolution cells."""

import itertools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax import ops


@flax.struct.dataclass
class Axis:
    """How the n' output cells of one axis lie over its n low-resolution cells; arrays are [n'].

    Attributes:
      nearest: index of the nearest low-resolution cell; ties go to the even one.
      relative: signed distance to its centre in half cells, [-1, 1].
      lower: index of the cell at or before, clamped into the axis.
      upper: index of the cell after, clamped.
      lower_weight: bilinear weight, zero where the cell is outside.
      upper_weight: the same of the cell after.
      base: where the warps start, see `videoinr.WarpGrid`.
    """

    nearest: jax.Array
    relative: jax.Array
    lower: jax.Array
    upper: jax.Array
    lower_weight: jax.Array
    upper_weight: jax.Array
    base: jax.Array

    @classmethod
    def of(cls, out_size: int, size: int, base: np.ndarray) -> "Axis":
        """Returns how `out_size` cells lie over `size`; `base` is [n']."""
        position = (np.arange(out_size) + 0.5) * size / out_size - 0.5  # in low-resolution pixels
        nearest = np.clip(np.rint(position), 0, size - 1).astype(np.int32)
        lower = np.floor(position)
        fraction = position - lower
        inside = (lower >= 0), (lower + 1 < size)
        floats = (
            (position - nearest) * 2.0,
            np.where(inside[0], 1.0 - fraction, 0.0),
            np.where(inside[1], fraction, 0.0),
        )
        relative, lower_weight, upper_weight = (jnp.asarray(x, jnp.float32) for x in floats)
        lower_index = jnp.asarray(np.clip(lower, 0, size - 1), jnp.int32)
        upper_index = jnp.asarray(np.clip(lower + 1, 0, size - 1), jnp.int32)
        return cls(
            jnp.asarray(nearest),
            relative,
            lower_index,
            upper_index,
            lower_weight,
            upper_weight,
            jnp.asarray(base, jnp.float32),
        )

    def read_nearest(self) -> tuple[tuple[jax.Array, jax.Array], ...]:
        """Returns pairs (index, weight) that gather the nearest cell."""
        return ((self.nearest, jnp.ones_like(self.relative)),)

    def read_bilinear(self) -> tuple[tuple[jax.Array, jax.Array], ...]:
        """Returns pairs (index, weight) that gather what `interpolate` returns."""
        return (self.lower, self.lower_weight), (self.upper, self.upper_weight)

    def interpolate(self, x: jax.Array, axis: int) -> jax.Array:
        """Resamples [B, ., ., C] along an axis, zero outside."""
        shape = [1] * x.ndim
        shape[axis] = -1
        lower = jnp.take(x, self.lower, axis=axis) * self.lower_weight.reshape(shape)
        return lower + jnp.take(x, self.upper, axis=axis) * self.upper_weight.reshape(shape)


def sample_axes(
    values: jax.Array,
    image: jax.Array,
    rows: tuple[tuple[jax.Array, jax.Array], ...],
    columns: tuple[tuple[jax.Array, jax.Array], ...],
) -> ops.Samples:
    """Returns an image's values [B, rows, W', C] at pairs (index, weight) along both axes as samples [B, 1, rows, W']."""
    batch, height, width, channels = image.shape
    first = np.arange(batch, dtype=np.int32)[:, None, None, None] * height  # row of each clip, [B, 1, 1, 1]
    pairs = list(itertools.product(rows, columns))
    index = [(first + y[:, None]) * width + x for (y, _), (x, _) in pairs]
    weight = [(weight_y[:, None] * weight_x)[None, None] for (_, weight_y), (_, weight_x) in pairs]
    table = jax.lax.stop_gradient(image).reshape(-1, channels)
    return ops.Samples(values[:, None], table, jnp.stack(index), jnp.stack(weight))
