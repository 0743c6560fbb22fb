"""SIREN MLP: a multi-layer perceptron with sine activations on many points (arXiv 2006.09661, eq. 4).

    x_0 = x + sum over inputs of y @ rows + bias_0,   x_i = sin(frequency x_{i-1}) @ kernel_i + bias_i

It starts at the sum x_0 of the first layer. Inputs of that layer are given multiplied already (x), as factors (y, rows),
or as `Samples` to gather. Between two layers lie up to 256 float32 numbers per point. A kernel that keeps them in
registers saves most of the time and memory.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.ops import triton
from stvsr_jax.ops.devices import (
    allows_kernels,
    check_implementation,
    count_mosaic_sms,
    require_mosaic,
    require_support,
)
from stvsr_jax.ops.sampling import Samples, values_of
from stvsr_jax.ops.sine import sine
from stvsr_jax.ops.sine_mlp import on_tpu
from stvsr_jax.ops.sine_mlp.inputs import Inputs, is_narrow


def sine_mlp(
    x: jax.Array | Samples | tuple[jax.Array | Samples, ...],
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array],
    *,
    frequency: float,
    inputs: Sequence[tuple[jax.Array | Samples, jax.Array]] = (),
    dtype: Any = jnp.float32,
    out_dtype: Any = jnp.float32,
    implementation: str | None = None,
) -> jax.Array:
    """Runs the layers after the first sum.

    Args:
      x: [..., C] float32, or several that are added. A kernel gathers `Samples` from their table; gradients and 'xla'
        read their values.
      kernels: of the layers, [C_i, C_{i+1}].
      biases: [C_i] each, one more than kernels; the first is added to x.
      frequency: factor of the sines' arguments.
      inputs: pairs (y [..., D], rows [D, C]); y @ rows is added to x. y may be `Samples`. Leading axes broadcast.
      dtype: of the operands of matrix products. Accumulators, sines and products with D <= 2 are float32.
      out_dtype: of the result.
      implementation: a name in `IMPLEMENTATIONS`. None: 'pallas_mosaic' on an NVIDIA Hopper GPU or 'pallas_triton' on
        another CUDA device, 'pallas_tpu' on a TPU, if they support the arguments and the program is for one device;
        otherwise 'xla'.

    Returns:
      [..., outputs] in out_dtype.

    Raises:
      ValueError: unknown implementation, or shapes that do not chain.
      NotImplementedError: the implementation cannot run these widths or this dtype, or not on this device.
    """
    check_implementation("sine_mlp", implementation, IMPLEMENTATIONS)
    operands = x if isinstance(x, tuple) else (x,), tuple(inputs), tuple(kernels), tuple(biases)
    _check_shapes(*jax.tree.map(jnp.shape, values_of(operands)))
    if implementation is not None:
        return IMPLEMENTATIONS[implementation](*operands, frequency, dtype, out_dtype)
    options = dict(frequency=frequency, dtype=dtype, out_dtype=out_dtype)
    if on_tpu.has_kernels(kernels, dtype):
        return _pallas_tpu(*operands, **options)
    functions = {"default": functools.partial(_xla, **options)}
    if (name := _choose_kernel(inputs, kernels, dtype)) is not None:
        functions["cuda"] = functools.partial(IMPLEMENTATIONS[name], **options)
    return jax.lax.platform_dependent(*operands, **functions)


def _choose_kernel(inputs, kernels, dtype):
    """Returns the implementation for a CUDA device, or None for XLA."""
    if not allows_kernels():
        return None
    if count_mosaic_sms() is not None:
        from stvsr_jax.ops.sine_mlp import mosaic

        if mosaic.is_supported(inputs, kernels, dtype):
            return "pallas_mosaic"
    if not triton.is_usable():
        return None
    from stvsr_jax.ops.sine_mlp import triton as sine_mlp_triton

    return "pallas_triton" if sine_mlp_triton.is_supported(inputs, kernels, dtype) else None


def _check_shapes(terms, inputs, kernels, biases):
    widths = [terms[0][-1], *(k[1] for k in kernels)]
    fits = (
        [k[0] for k in kernels] == widths[:-1]
        and [b[0] for b in biases] == widths
        and all(x[-1] == widths[0] for x in terms)
        and all(rows == (y[-1], widths[0]) for y, rows in inputs)
    )
    try:
        np.broadcast_shapes(*(x[:-1] for x in [*terms, *(y for y, _ in inputs)]))
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"sine_mlp: x {terms}, inputs {inputs}, kernels {kernels} and biases {biases} do not chain"
        )


def _xla(terms, inputs, kernels, biases, frequency, dtype, out_dtype):
    return _run_layers(_add_products(terms, inputs, dtype), kernels, biases, frequency, dtype, out_dtype)


def _run_layers(x, kernels, biases, frequency, dtype, out_dtype):
    x = x + biases[0]
    for kernel, bias in zip(kernels, biases[1:], strict=True):
        activation = sine(frequency * x).astype(dtype)
        x = jnp.matmul(activation, kernel.astype(dtype), preferred_element_type=jnp.float32) + bias
    return x.astype(out_dtype)


def _add_products(terms, inputs, dtype):
    terms, inputs = values_of((terms, inputs))
    x = functools.reduce(operator.add, terms)
    wide = []
    for y, rows in inputs:
        if is_narrow(rows):
            # XLA fuses these multiply-adds into the addition; a matrix product would be stored.
            x = x + sum(y[..., i, None].astype(jnp.float32) * row for i, row in enumerate(rows))
        else:
            wide.append((y.astype(dtype), rows.astype(dtype)))
    if not wide:
        return x
    # One product of the concatenated inputs: faster than storing the product of each.
    y, rows = zip(*wide, strict=True)
    y, rows = jnp.concatenate(_broadcast(y), axis=-1), jnp.concatenate(rows)
    return x + jnp.matmul(y, rows, preferred_element_type=jnp.float32)


def _broadcast(arrays):
    shape = np.broadcast_shapes(*(y.shape[:-1] for y in arrays))
    return [jnp.broadcast_to(y, (*shape, y.shape[-1])) for y in arrays]


def _pallas_triton(terms, inputs, kernels, biases, frequency, dtype, out_dtype):
    triton.require("sine_mlp")
    from stvsr_jax.ops.sine_mlp import triton as sine_mlp_triton

    if not sine_mlp_triton.is_supported(inputs, kernels, dtype):
        raise NotImplementedError(
            f"sine_mlp: pallas_triton runs products of 16 bits, of {sine_mlp_triton.SUPPORTED_WIDTHS}, not "
            f"{_describe(kernels, dtype)}"
        )

    def run_backward(total, kernels, biases, cotangent, frequency, dtype):
        if sine_mlp_triton.is_backward_supported(total, kernels):
            return sine_mlp_triton.run_backward(total, kernels, biases, cotangent, frequency, dtype)
        _, vjp = jax.vjp(
            lambda x, *rest: _xla((x,), (), *rest, frequency, dtype, out_dtype), total, kernels, biases
        )
        return vjp(cotangent)

    functions = sine_mlp_triton.run, run_backward
    return _run_kernels(*functions, terms, inputs, kernels, biases, frequency, dtype, out_dtype)


def _pallas_mosaic(terms, inputs, kernels, biases, frequency, dtype, out_dtype):
    sms = require_mosaic("sine_mlp")
    from stvsr_jax.ops.sine_mlp import mosaic  # imports Mosaic, which only Hopper GPUs need

    if not mosaic.is_supported(inputs, kernels, dtype):
        raise NotImplementedError(
            f"sine_mlp: pallas_mosaic runs products of 16 bits, of {mosaic.SUPPORTED_WIDTHS}, not "
            f"{_describe(kernels, dtype)}"
        )
    modules = mosaic.run, mosaic.run_backward
    functions = [functools.partial(function, sms=sms) for function in modules]
    return _run_kernels(*functions, terms, inputs, kernels, biases, frequency, dtype, out_dtype)


def _pallas_tpu(terms, inputs, kernels, biases, frequency, dtype, out_dtype):
    require_support("sine_mlp", "pallas_tpu", on_tpu.has_kernels(kernels, dtype), *kernels)
    options = on_tpu.Options(frequency, dtype, out_dtype)
    layers = functools.partial(_run_layers, **options._asdict())
    return on_tpu.run(layers, options, _add_products(terms, inputs, dtype), kernels, biases)


def _describe(kernels, dtype):
    return f"{jnp.dtype(dtype)} products of widths {[len(kernels[0]), *(k.shape[1] for k in kernels)]}"


def _run_kernels(run_forward, run_backward, terms, inputs, kernels, biases, frequency, dtype, out_dtype):
    @jax.custom_vjp
    def run(terms, inputs, kernels, biases):
        points = Inputs.of(terms, inputs, biases[0], dtype)
        return run_forward(points, kernels, biases, frequency, dtype, out_dtype)

    def forward(terms, inputs, kernels, biases):
        # The backward kernel reads the sum x_0.
        total, add = jax.vjp(lambda *operands: _add_products(*operands, dtype), terms, inputs)
        return run((total,), (), kernels, biases), (total, add, kernels, biases)

    def backward(residuals, cotangent):
        total, add, kernels, biases = residuals
        d_total, *d_weights = run_backward(total, kernels, biases, cotangent, frequency, dtype)
        return *add(d_total), *d_weights

    run.defvjp(forward, backward)
    return run(terms, inputs, kernels, biases)


IMPLEMENTATIONS = {
    "xla": _xla,
    "pallas_mosaic": _pallas_mosaic,
    "pallas_triton": _pallas_triton,
    "pallas_tpu": _pallas_tpu,
}
