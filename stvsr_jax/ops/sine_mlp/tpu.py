"""The SIREN MLP and its gradients as Pallas kernels for TPUs: all layers of a block of points in VMEM.

Points lie along the lanes, channels along the sublanes: arrays are [C, P]. The backward kernel makes the activations
again. It sums the gradients of kernels and biases in VMEM over all blocks, which run one after the other.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stvsr_jax.ops.sine import cosine, sine

_LANES = 128
_BLOCK = 512  # points
_ROWS = 16  # of a tile of 16 bits
_WIDEST = 256  # for which a block fits into 16 MB of VMEM


def is_supported(kernels: Sequence[jax.Array], dtype: Any) -> bool:
    """Returns whether the kernels can run layers [C_i, C_{i+1}] with products of this dtype."""
    return jnp.dtype(dtype) in (jnp.bfloat16, jnp.float32) and all(
        len(kernel) % _ROWS == 0 and max(kernel.shape) <= _WIDEST for kernel in kernels
    )


def run(
    x: jax.Array,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array],
    *,
    frequency: float,
    dtype: Any,
    out_dtype: Any,
    interpret: bool = False,
) -> jax.Array:
    """Returns what the layers make of the first sum; see `ops.sine_mlp`.

    Args:
      x: [C_0, P] float32.
      kernels: [C_i, C_{i+1}].
      biases: [C_i], one more.
      frequency: factor of the sines' arguments.
      dtype: of the products' operands.
      out_dtype: of the result.
      interpret: run on any device.

    Returns:
      [C_n, P].
    """
    weights = [*(kernel.T.astype(dtype) for kernel in kernels), *map(_column, biases)]
    block, outputs = _block_of(x), kernels[-1].shape[1]
    return pl.pallas_call(
        functools.partial(_forward, frequency),
        out_shape=jax.ShapeDtypeStruct((outputs, x.shape[1]), out_dtype),
        grid=(pl.cdiv(x.shape[1], block),),
        in_specs=[_block_spec(len(x), block), *map(_whole_spec, weights)],
        out_specs=_block_spec(outputs, block),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=_cost(x, kernels, 1, outputs * jnp.dtype(out_dtype).itemsize),
        interpret=interpret,
        name="sine_mlp",
    )(x, *weights)


def run_backward(
    x: jax.Array,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array],
    cotangent: jax.Array,
    *,
    frequency: float,
    dtype: Any,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Returns the gradients of x, kernels and biases, float32.

    Args:
      x, kernels, biases, frequency, dtype, interpret: as of `run`.
      cotangent: [C_n, P].
    """
    weights = [kernel.astype(dtype) for kernel in kernels]
    operands = [*(w.T for w in weights), *weights, *map(_column, biases)]
    block = _block_of(x)
    # The gradients of kernels are [C_{i+1}, C_i]: products of two arrays along their lanes.
    sums = [jax.ShapeDtypeStruct(k.shape[::-1], jnp.float32) for k in kernels]
    sums += [jax.ShapeDtypeStruct((len(b), 1), jnp.float32) for b in biases]
    d_x, *gradients = pl.pallas_call(
        functools.partial(_backward, frequency, x.shape[1], len(kernels)),
        out_shape=(jax.ShapeDtypeStruct(x.shape, jnp.float32), *sums),
        grid=(pl.cdiv(x.shape[1], block),),
        in_specs=[
            _block_spec(len(x), block),
            _block_spec(len(cotangent), block),
            *map(_whole_spec, operands),
        ],
        out_specs=(_block_spec(len(x), block), *map(_whole_spec, sums)),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        cost_estimate=_cost(x, kernels, 3, 4 * (len(x) + len(cotangent))),
        interpret=interpret,
        name="sine_mlp_backward",
    )(x, cotangent.astype(jnp.float32), *operands)
    d_kernels, d_biases = gradients[: len(kernels)], gradients[len(kernels) :]
    return d_x, tuple(d.T for d in d_kernels), tuple(d[:, 0] for d in d_biases)


def _block_of(x):
    return min(_BLOCK, pl.cdiv(x.shape[1], _LANES) * _LANES)


def _column(bias):
    return bias.astype(jnp.float32)[:, None]


def _block_spec(channels, block):
    return pl.BlockSpec((channels, block), lambda i: (0, i))


def _whole_spec(array):
    return pl.BlockSpec(array.shape, lambda i: (0, 0))


def _cost(x, kernels, passes, other_bytes):
    return pl.CostEstimate(
        flops=2 * passes * x.shape[1] * sum(k.size for k in kernels),
        bytes_accessed=x.shape[1] * (4 * len(x) + other_bytes),
        transcendentals=0,
    )


def _forward(frequency, x, *refs):
    *weights, out = refs
    kernels, biases = weights[: len(weights) // 2], weights[len(weights) // 2 :]
    y = x[...] + biases[0][...]
    for kernel, bias in zip(kernels, biases[1:], strict=True):
        y = _dot(kernel[...], sine(frequency * y).astype(kernel.dtype)) + bias[...]
    out[...] = y.astype(out.dtype)


def _backward(frequency, points, layers, x, cotangent, *refs):
    turned, kernels, biases = refs[:layers], refs[layers : 2 * layers], refs[2 * layers : 3 * layers + 1]
    d_x, d_kernels, d_biases = refs[3 * layers + 1], refs[-2 * layers - 1 : -layers - 1], refs[-layers - 1 :]

    @pl.when(pl.program_id(0) == 0)
    def _():
        for total in (*d_kernels, *d_biases):
            total[...] = jnp.zeros_like(total)

    # After the last point stand any numbers.
    block = x.shape[1]
    point = pl.program_id(0) * block + jax.lax.broadcasted_iota(jnp.int32, (1, block), 1)
    total, g = (jnp.where(point < points, a[...], 0.0) for a in (x, cotangent))
    totals = [frequency * (total + biases[0][...])]
    for kernel, bias in zip(turned[:-1], biases[1:-1], strict=True):
        y = _dot(kernel[...], sine(totals[-1]).astype(kernel.dtype)) + bias[...]
        totals.append(frequency * y)
    for i in reversed(range(layers)):
        activation = sine(totals[i]).astype(kernels[i].dtype)
        d_biases[i + 1][...] += jnp.sum(g, axis=1, keepdims=True)
        g = g.astype(activation.dtype)
        d_kernels[i][...] += _dot(g, activation, ((1,), (1,)))
        g = _dot(kernels[i][...], g) * (frequency * cosine(totals[i]))
    d_biases[0][...] += jnp.sum(g, axis=1, keepdims=True)
    d_x[...] = g


def _dot(a, b, contract=((1,), (0,))):
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (contract, ((), ())), precision=exact, preferred_element_type=jnp.float32
    )
