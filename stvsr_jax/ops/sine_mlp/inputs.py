"""The inputs of a `sine_mlp`'s first layer, as its kernels read them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stvsr_jax.ops.sampling import Samples, values_of


class Inputs(NamedTuple):
    """Inputs of all points P: arrays [P, C], and `Samples` without values, index and weight [K, P].

    Attributes:
      terms: of C channels, float32, which are added.
      pairs: (y, rows [D, C]) in the products' dtype, y of D channels; y @ rows is added.
      bias: [C].
      shape: leading axes of the points, of P in all.
    """

    terms: list[jax.Array | Samples]
    pairs: list[tuple[jax.Array | Samples, jax.Array]]
    bias: jax.Array
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """P."""
        return math.prod(self.shape)

    @classmethod
    def of(
        cls,
        terms: Sequence[jax.Array | Samples],
        pairs: Sequence[tuple[jax.Array | Samples, jax.Array]],
        bias: jax.Array,
        dtype: Any,
    ) -> "Inputs":
        """Returns the inputs of `ops.sine_mlp` with their leading axes broadcast and flattened.

        An input that is the same for all points goes into the bias. A narrow product becomes `Samples` of its rows.
        """
        shape = jnp.broadcast_shapes(*(a.shape[:-1] for a in values_of([*terms, *(y for y, _ in pairs)])))
        terms, wide = list(terms), []
        for y, rows in pairs:
            if not is_narrow(rows):
                wide.append((_in_points(y, shape, dtype), rows.astype(dtype)))
                continue
            y = values_of(y)
            if y.size == len(rows):  # the same for all points
                bias = bias + jnp.sum(y.reshape(-1, 1) * rows, axis=0)
            else:
                terms.append(_weigh(rows, y))
        return cls([_in_points(term, shape, jnp.float32) for term in terms], wide, bias, shape)


def is_narrow(rows: jax.Array) -> bool:
    """Returns whether the product with rows [D, C] is multiply-adds in float32, without tensor cores."""
    return len(rows) <= 2


def _in_points(x, shape, dtype):
    if isinstance(x, Samples):
        index, weight = (
            jax.vmap(lambda a: jnp.broadcast_to(a, shape).reshape(-1))(a) for a in (x.index, x.weight)
        )
        return Samples(None, x.table, index, weight)
    return jnp.broadcast_to(x, (*shape, x.shape[-1])).reshape(-1, x.shape[-1]).astype(dtype)


def _weigh(rows, y):
    """Returns a narrow product as `Samples` of its rows: weights y, indices 0 to D - 1."""
    weight = jnp.moveaxis(y.astype(jnp.float32), -1, 0)
    index = jnp.arange(len(rows), dtype=jnp.int32).reshape(-1, *[1] * (weight.ndim - 1))
    return Samples(None, rows.astype(jnp.float32), index, weight)
