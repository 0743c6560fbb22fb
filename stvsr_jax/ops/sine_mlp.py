"""A multi-layer perceptron with sine activations, on many points at once (SIREN, arXiv 2006.09661, eq. 4).

    x_0 = x + bias_0,   x_i = sin(frequency x_{i-1}) @ kernel_i + bias_i

It starts from the sum that the first layer makes of its inputs. Between two layers lie up to 256 float32 numbers
a point; a back end that keeps them on the chip saves most of the time and memory.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from stvsr_jax.ops import sine_mlp_triton
from stvsr_jax.ops.devices import is_single_device
from stvsr_jax.ops.sine import sine


def sine_mlp(
    x: jax.Array,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array],
    *,
    frequency: float,
    dtype: Any = jnp.float32,
    out_dtype: Any = jnp.float32,
    implementation: str | None = None,
) -> jax.Array:
    """Run the layers after the first sum.

    Args:
      x: [..., C], float32.
      kernels: of the layers, [C_i, C_{i+1}].
      biases: one more than kernels; the first is added to x.
      frequency: factor of the sines' arguments.
      dtype: of the matrix products' operands; sines and sums are float32.
      out_dtype: of the result.
      implementation: a name in `IMPLEMENTATIONS`. None takes 'pallas_triton' on a CUDA device where it can run (and
        is alone: XLA cannot split the kernel over several devices), else 'xla'.

    Returns:
      [..., outputs] in out_dtype.

    Raises:
      ValueError: unknown implementation, or shapes that do not chain.
      NotImplementedError: the implementation cannot run these widths or this dtype.
    """
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(f"sine_mlp: {implementation!r} is not one of {sorted(IMPLEMENTATIONS)}")
    widths = [x.shape[-1], *(k.shape[1] for k in kernels)]
    if [k.shape[0] for k in kernels] != widths[:-1] or [b.shape[0] for b in biases] != widths:
        raise ValueError(
            f"sine_mlp: x {x.shape}, kernels {[k.shape for k in kernels]} and biases {[b.shape for b in biases]} "
            "do not chain"
        )
    operands = x, tuple(kernels), tuple(biases)
    if implementation is not None:
        return IMPLEMENTATIONS[implementation](*operands, frequency, dtype, out_dtype)
    options = dict(frequency=frequency, dtype=dtype, out_dtype=out_dtype)
    run_xla = functools.partial(_xla, **options)
    if not is_single_device() or not sine_mlp_triton.is_supported(x, kernels, dtype):
        return run_xla(*operands)
    run_triton = functools.partial(_pallas_triton, **options)
    return jax.lax.platform_dependent(*operands, cuda=run_triton, default=run_xla)


def _xla(x, kernels, biases, frequency, dtype, out_dtype):
    x = x + biases[0]
    for kernel, bias in zip(kernels, biases[1:], strict=True):
        activation = sine(frequency * x).astype(dtype)
        x = jnp.matmul(activation, kernel.astype(dtype), preferred_element_type=jnp.float32) + bias
    return x.astype(out_dtype)


def _pallas_triton(x, kernels, biases, frequency, dtype, out_dtype):
    if not sine_mlp_triton.is_supported(x, kernels, dtype):
        raise NotImplementedError(
            f"sine_mlp: pallas_triton runs products of 16 bits, of {sine_mlp_triton.SUPPORTED_WIDTHS}, not "
            f"{jnp.dtype(dtype)} products of widths {[x.shape[-1], *(k.shape[1] for k in kernels)]}"
        )

    @jax.custom_vjp
    def run(x, kernels, biases):
        return sine_mlp_triton.run(x, kernels, biases, frequency, dtype, out_dtype)

    def forward(*operands):
        return run(*operands), operands

    def backward(operands, cotangent):
        if not sine_mlp_triton.is_backward_supported(*operands[:2]):
            _, vjp = jax.vjp(lambda *args: _xla(*args, frequency, dtype, out_dtype), *operands)
            return vjp(cotangent)
        return sine_mlp_triton.run_backward(*operands, cotangent, frequency, dtype)

    run.defvjp(forward, backward)
    return run(x, kernels, biases)


IMPLEMENTATIONS = {"xla": _xla, "pallas_triton": _pallas_triton}
