"""The SIREN MLP for CUDA GPUs: all layers of a block of points in one kernel (Pallas, Triton lowering).

Activations stay in registers. The widest layer is made and consumed in slices of 64 channels. The backward kernel
rematerialises them and stores activations and gradients in 16 bits. XLA multiplies these to the gradients w.r.t. the
kernels, and reduces those w.r.t. the biases over blocks. `Samples` are gathered in the kernel. Only 16-bit products: Triton
would run float32 ones in TF32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stvsr_jax.ops.sampling import Samples
from stvsr_jax.ops.sine import cosine, sine
from stvsr_jax.ops.sine_mlp.inputs import Inputs, is_narrow

_BLOCK = 64  # points of a program
_SLICE = 64  # channels of the widest layer made at a time
_NARROWEST = 16  # the smallest side of a tensor core's product; narrower outputs are padded

# sin.approx and cos.approx have an absolute error of 5e-7 on [-pi, pi]. The argument is reduced by the nearest multiple of
# 2 pi, in two parts. Adding and subtracting 1.5 * 2**23 rounds to the multiple.
_PTX = """
{{
    .reg .f32 multiple, rest;
    fma.rn.f32 multiple, $1, 0f3E22F983, 0f4B400000;
    sub.rn.f32 multiple, multiple, 0f4B400000;
    fma.rn.f32 rest, multiple, 0fC0C90FDB, $1;
    fma.rn.f32 rest, multiple, 0f343BBD2E, rest;
    {function}.approx.f32 $0, rest;
}}
"""


SUPPORTED_WIDTHS = (
    f"3 or 4 layers whose widths, also of inputs of more than two channels but not of outputs, are powers of two from "
    f"{_NARROWEST} on, the second hidden one from {_SLICE}"
)


def is_supported(
    inputs: tuple[tuple[jax.Array | Samples, jax.Array], ...], kernels: tuple[jax.Array, ...], dtype
) -> bool:
    """Returns whether the kernel can run these widths in this dtype."""
    widths = [*(len(k) for k in kernels), *(len(rows) for _, rows in inputs if not is_narrow(rows))]
    return (
        jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and len(kernels) in (3, 4)
        and all(w >= _NARROWEST and w & (w - 1) == 0 for w in widths)
        and len(kernels[2]) >= _SLICE
    )


def is_backward_supported(x: jax.Array, kernels: tuple[jax.Array, ...]) -> bool:
    """Returns whether the arrays that the backward kernel stores have indices of 32 bits."""
    return x.size // x.shape[-1] * max(k.shape[0] for k in kernels) < 2**31


def run(
    inputs: Inputs,
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array, ...],
    frequency: float,
    dtype: jnp.dtype,
    out_dtype: jnp.dtype = jnp.float32,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Runs the kernel; arguments as for `ops.sine_mlp`, `interpret` runs it anywhere, slowly, for tests.

    The first bias is replaced by that of the inputs.
    """
    outputs = kernels[-1].shape[1]
    operands = _operands(kernels, (inputs.bias, *biases[1:-1], _pad_outputs(biases[-1])), dtype)
    call = _call(
        _forward_kernel,
        jax.ShapeDtypeStruct((inputs.count, *operands[-1].shape), out_dtype),
        _Problem(inputs.count, len(kernels), frequency, dtype, interpret),
        "sine_mlp",
    )
    return call(inputs.terms, inputs.pairs, *operands)[:, :outputs].reshape(*inputs.shape, outputs)


def run_backward(
    x: jax.Array,
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array, ...],
    cotangent: jax.Array,
    frequency: float,
    dtype: jnp.dtype,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Returns the gradients w.r.t. x, kernels and biases from the cotangent [..., outputs] of what `run` returns."""
    points, outputs = x.reshape(-1, x.shape[-1]).astype(jnp.float32), kernels[-1].shape[1]
    cotangent = cotangent.reshape(-1, outputs).astype(jnp.float32)
    operands = _operands(kernels, biases[:-1], dtype)
    # For every layer between x and the outputs: its activation and the gradient before it.
    kept = [jax.ShapeDtypeStruct((len(points), k.shape[0]), dtype) for k in kernels]
    # For every layer but the outputs: the gradient before it, reduced over each block.
    totals = [jax.ShapeDtypeStruct((pl.cdiv(len(points), _BLOCK), k.shape[0]), jnp.float32) for k in kernels]
    call = _call(
        _backward_kernel,
        (jax.ShapeDtypeStruct(points.shape, jnp.float32), *kept, *kept[1:], *totals),
        _Problem(len(points), len(kernels), frequency, dtype, interpret),
        "sine_mlp_backward",
    )
    d_x, *kept = call(points, *operands, _pad_outputs(cotangent).astype(dtype))
    kept, totals = kept[: -len(kernels)], kept[-len(kernels) :]
    activations, gradients = kept[: len(kernels)], [*kept[len(kernels) :], cotangent.astype(dtype)]
    d_kernels = tuple(
        jnp.matmul(a.T, g, preferred_element_type=jnp.float32)
        for a, g in zip(activations, gradients, strict=True)
    )
    d_biases = tuple(jnp.sum(g, axis=0) for g in (*totals, cotangent))
    return d_x.reshape(x.shape), d_kernels, d_biases


class _Problem(NamedTuple):
    """Sizes and options known when a kernel is compiled."""

    count: int
    layers: int
    frequency: float
    dtype: jnp.dtype
    interpret: bool


def _operands(kernels, biases, dtype):
    """Returns the weights as the kernels read them."""
    kernels = (*kernels[:-1], _pad_outputs(kernels[-1]))
    return [*(k.astype(dtype) for k in kernels), *(b.astype(jnp.float32) for b in biases)]


def _pad_outputs(x):
    """Returns x with zeros at the end of its last axis: Triton's block sides are powers of two."""
    outputs = x.shape[-1]
    padded = max(_NARROWEST, 1 << (outputs - 1).bit_length())
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padded - outputs)])


def _call(kernel, out_shape, problem, name):
    return pl.pallas_call(
        functools.partial(kernel, problem=problem),
        out_shape=out_shape,
        grid=(pl.cdiv(problem.count, _BLOCK),),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=problem.interpret,
        name=name,
    )


def _forward_kernel(term_refs, input_refs, *refs, problem):
    kernel_refs, bias_refs, out_ref = refs[: problem.layers], refs[problem.layers : -1], refs[-1]
    block = _Block(problem)
    values = block.read_all([*term_refs, *(y_ref for y_ref, _ in input_refs)])
    x = functools.reduce(jnp.add, values[: len(term_refs)]) + _row(bias_refs[0])
    for y, (_, rows_ref) in zip(values[len(term_refs) :], input_refs, strict=True):
        x += plgpu.dot(y.astype(problem.dtype), plgpu.load(rows_ref.at[:, :]))
    x = block.activate(x)
    x = block.activate(_product(x, kernel_refs[0], bias_refs[1]))
    total = block.pass_widest(x, kernel_refs, bias_refs)
    if problem.layers == 4:
        total = _product(block.activate(total), kernel_refs[3], bias_refs[4])
    block.write(out_ref, total)


def _backward_kernel(x_ref, *refs, problem):
    p, layers = problem, problem.layers
    kernel_refs, bias_refs, cotangent_ref, d_x_ref = (
        refs[:layers],
        refs[layers : 2 * layers],
        refs[2 * layers],
        refs[2 * layers + 1],
    )
    activation_refs, gradient_refs = (
        refs[2 * layers + 2 : 3 * layers + 2],
        refs[3 * layers + 2 : 4 * layers + 1],
    )
    total_refs = refs[4 * layers + 1 :]
    block = _Block(p)

    first, first_slope = block.activate_with_slope(block.read(x_ref) + _row(bias_refs[0]))
    second, second_slope = block.activate_with_slope(_product(first, kernel_refs[0], bias_refs[1]))
    above = block.read(cotangent_ref)
    if layers == 4:
        fourth, slope = block.activate_with_slope(block.pass_widest(second, kernel_refs, bias_refs))
        above = _product_transposed(above, plgpu.load(kernel_refs[3].at[:, :])) * slope
        block.write_total(total_refs[3], above)
        above = above.astype(p.dtype)
        block.write(activation_refs[3], fourth)
        block.write(gradient_refs[2], above)

    def pass_slice(number, total):
        part = pl.ds(number * _SLICE, _SLICE)
        kernel = plgpu.load(kernel_refs[1].at[:, part])
        third, slope = block.activate_with_slope(plgpu.dot(second, kernel) + _row(bias_refs[2], part))
        gradient = _product_transposed(above, plgpu.load(kernel_refs[2].at[part, :])) * slope
        block.write_total(total_refs[2], gradient, part)
        gradient = gradient.astype(p.dtype)
        block.write(activation_refs[2], third, part)
        block.write(gradient_refs[1], gradient, part)
        return total + _product_transposed(gradient, kernel)

    slices = kernel_refs[1].shape[1] // _SLICE
    total = jax.lax.fori_loop(0, slices, pass_slice, jnp.zeros(second.shape, jnp.float32))
    gradient = total * second_slope
    block.write_total(total_refs[1], gradient)
    gradient = gradient.astype(p.dtype)
    block.write(activation_refs[1], second)
    block.write(gradient_refs[0], gradient)
    block.write(activation_refs[0], first)
    d_x = _product_transposed(gradient, plgpu.load(kernel_refs[0].at[:, :])) * first_slope
    block.write_total(total_refs[0], d_x)
    block.write(d_x_ref, d_x)


class _Block:
    """The points of a program."""

    def __init__(self, problem: _Problem):
        self._problem = problem
        self._number = pl.program_id(0)
        self._rows = pl.ds(self._number * _BLOCK, _BLOCK)
        self._inside = self._number * _BLOCK + jnp.arange(_BLOCK) < problem.count

    def read(self, ref):
        mask = jnp.broadcast_to(self._inside[:, None], (_BLOCK, ref.shape[1]))
        return plgpu.load(ref.at[self._rows, slice(None)], mask=mask, other=0.0)

    def read_all(self, refs):
        """Returns the rows of each array at the block's points; of `Samples` the weighted sums."""
        counts = [ref.index.shape[0] if isinstance(ref, Samples) else 0 for ref in refs]
        values = [None if count else self.read(ref) for ref, count in zip(refs, counts, strict=True)]
        for count in sorted(set(counts) - {0}):
            places = [i for i, c in enumerate(counts) if c == count]
            sampled = self._sample([refs[i] for i in places], count)
            for place, total in zip(places, sampled, strict=True):
                values[place] = total
        return values

    def _sample(self, samples, count):
        """Accumulates rows in a loop, one row of all samples in each step.

        Outside a loop Triton would convert each row, not the accumulator, to the layout of the products.
        """

        def add_rows(k, acc):
            return [x + self._read_row(ref, k) for x, ref in zip(acc, samples, strict=True)]

        acc = [jnp.zeros((_BLOCK, ref.table.shape[1]), jnp.float32) for ref in samples]
        acc = jax.lax.fori_loop(0, count, add_rows, acc)
        return [x.astype(ref.table.dtype) for x, ref in zip(acc, samples, strict=True)]

    def _read_row(self, samples, k):
        # Row 0 with no weight where there is no point.
        index = plgpu.load(samples.index.at[k, self._rows], mask=self._inside, other=0)
        weight = plgpu.load(samples.weight.at[k, self._rows], mask=self._inside, other=0.0)
        channels = jnp.arange(samples.table.shape[1], dtype=jnp.int32)
        row = plgpu.load(samples.table.at[index[:, None], channels[None, :]])
        return row.astype(jnp.float32) * weight[:, None]

    def write(self, ref, x, part=slice(None)):
        mask = jnp.broadcast_to(self._inside[:, None], x.shape)
        plgpu.store(ref.at[self._rows, part], x.astype(ref.dtype), mask=mask)

    def write_total(self, ref, x, part=slice(None)):
        plgpu.store(ref.at[self._number, part], jnp.sum(x, axis=0))

    def activate(self, y):
        return self._apply("sin", y * jnp.float32(self._problem.frequency)).astype(self._problem.dtype)

    def activate_with_slope(self, y):
        """Returns the activation in 16 bits and its derivative w.r.t. y in float32."""
        frequency = jnp.float32(self._problem.frequency)
        return self.activate(y), self._apply("cos", y * frequency) * frequency

    def _apply(self, function, y):
        if self._problem.interpret:
            return {"sin": sine, "cos": cosine}[function](y)
        (y,) = plgpu.elementwise_inline_asm(
            _PTX.format(function=function),
            args=[y],
            constraints="=f,f",
            pack=1,
            result_shape_dtypes=[jax.ShapeDtypeStruct(y.shape, jnp.float32)],
        )
        return y

    def pass_widest(self, x, kernel_refs, bias_refs):
        """Returns the layers into and out of the widest one, slice by slice: it is never whole in registers."""
        total = jnp.zeros((_BLOCK, kernel_refs[2].shape[1]), jnp.float32) + _row(bias_refs[3])
        for part in _slices(kernel_refs[1]):
            hidden = plgpu.dot(x, plgpu.load(kernel_refs[1].at[:, part])) + _row(bias_refs[2], part)
            total += plgpu.dot(self.activate(hidden), plgpu.load(kernel_refs[2].at[part, :]))
        return total


def _slices(kernel_ref):
    return [pl.ds(start, _SLICE) for start in range(0, kernel_ref.shape[1], _SLICE)]


def _row(bias_ref, part=slice(None)):
    return plgpu.load(bias_ref.at[part])[None]


def _product(x, kernel_ref, bias_ref):
    return plgpu.dot(x, plgpu.load(kernel_ref.at[:, :])) + _row(bias_ref)


def _product_transposed(x, kernel):
    return plgpu.dot(x, kernel, trans_b=True)
