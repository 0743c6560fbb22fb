"""`points.PointOps` for the interpreter: the same values, as arrays of all 64 points."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from stvsr_jax.ops.mosaic.layout import NARROW, POINTS, WARPS, reorder
from stvsr_jax.ops.mosaic.windows import CHUNK
from stvsr_jax.ops.sampling import Samples
from stvsr_jax.ops.sine import cosine, sine


def make(count: int, dtype: Any, outputs: int, frequency: float) -> dict[str, Any]:
    """Returns the fields of `PointOps`; arguments as of `points.make`."""

    def zeros(columns=CHUNK):
        return jnp.zeros((POINTS, columns), jnp.float32)

    def read(ref, point):
        return ref[...][jnp.minimum(point + jnp.arange(POINTS), count - 1)]

    def add_rows(acc, source, point):
        if not isinstance(source, Samples):
            return acc + reorder(read(source, point).astype(jnp.float32), 1)
        for k in range(source.index.shape[0]):
            rows = source.table[...][read(source.index.at[k], point)].astype(jnp.float32)
            acc = acc + reorder(rows, 1) * read(source.weight.at[k], point)[:, None]
        return acc

    def multiply(acc, operands, weights, is_transposed=False):
        for a, b in zip(operands, weights, strict=True):
            b = b[...].T if is_transposed else b[...]
            acc = acc + jnp.dot(a, b, preferred_element_type=jnp.float32)
        return acc

    def argument(acc, bias):
        return jnp.float32(frequency) * acc + bias[...][None]

    def add_columns(acc, totals, point):
        is_inside = point + jnp.arange(POINTS) < count
        acc = jnp.where(is_inside[:, None], acc, 0.0)
        totals[...] += acc.reshape(WARPS, -1, CHUNK).sum(1)

    def store_rows(rows, out, point, first):
        @pl.loop(0, jnp.minimum(count - point, POINTS))
        def _(i):
            row = lax.dynamic_index_in_dim(rows, i, keepdims=False)
            out[point + i, pl.ds(first, rows.shape[1])] = row.astype(out.dtype)

    def differentiate(gradient, acc, bias):
        return gradient * jnp.float32(frequency) * cosine(argument(acc, bias))

    def store_outputs(acc, bias, out, point):
        rows = acc + bias[...][None, : acc.shape[1]]
        rows = rows[:, :outputs] if outputs <= NARROW else reorder(rows, 1)
        store_rows(rows, out, point, 0)

    return dict(
        zeros=zeros,
        zero_outputs=functools.partial(zeros, NARROW if outputs <= NARROW else CHUNK),
        add_rows=add_rows,
        read_narrow=read,
        round=lambda acc: acc.astype(dtype),
        multiply=multiply,
        multiply_transposed=functools.partial(multiply, is_transposed=True),
        multiply_last=lambda acc, chunk, weights: multiply(acc, [chunk], [weights]),
        multiply_first=lambda acc, chunk, weights: multiply(acc, [chunk], [weights], is_transposed=True),
        activate=lambda acc, bias: sine(argument(acc, bias)).astype(dtype),
        differentiate=differentiate,
        add_columns=add_columns,
        store_outputs=store_outputs,
        store=lambda acc, out, point: store_rows(reorder(acc, 1), out, point, 0),
        store_operand=lambda chunk, out, point, first: store_rows(reorder(chunk, 1), out, point, first),
    )
