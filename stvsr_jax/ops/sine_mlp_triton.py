"""The GPU back end of `sine_mlp`: all layers of a block of points in one kernel (Pallas, Triton lowering).

A block's activations stay in registers; the widest layer is made and consumed in slices of 64 channels. Only
products of 16 bits: Triton would run float32 ones in TF32.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stvsr_jax.ops.sine import sine

_BLOCK = 64  # points of a program
_SLICE = 64  # channels of the widest layer made at a time
_NARROWEST = 16  # the matrix units' smallest side; narrower outputs are padded

# sin.approx is right to 5e-7 on [-pi, pi]; the argument is reduced by the nearest multiple of 2 pi, which adding
# and subtracting 1.5 * 2**23 finds, in two parts.
_SINE_PTX = """
{
    .reg .f32 turns, rest;
    fma.rn.f32 turns, $1, 0f3E22F983, 0f4B400000;
    sub.rn.f32 turns, turns, 0f4B400000;
    fma.rn.f32 rest, turns, 0fC0C90FDB, $1;
    fma.rn.f32 rest, turns, 0f343BBD2E, rest;
    sin.approx.f32 $0, rest;
}
"""


SUPPORTED_WIDTHS = (
    f"3 or 4 layers whose widths, but for the outputs, are powers of two from {_NARROWEST} on, the second hidden one "
    f"from {_SLICE}"
)


def is_supported(x: jax.Array, kernels: tuple[jax.Array, ...], dtype) -> bool:
    """Return whether the kernel can run these widths in this dtype."""
    widths = [x.shape[-1], *(k.shape[1] for k in kernels)]
    return (
        jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and len(widths) in (4, 5)
        and all(w >= _NARROWEST and w & (w - 1) == 0 for w in widths[:-1])
        and widths[2] >= _SLICE
    )


def run(
    x: jax.Array,
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array, ...],
    frequency: float,
    dtype: jnp.dtype,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Run the kernel; arguments as for `ops.sine_mlp`, `interpret` runs it anywhere, slowly, for tests."""
    outputs = kernels[-1].shape[1]
    # Triton's block sides are powers of two.
    padded = max(_NARROWEST, 1 << (outputs - 1).bit_length())
    kernels = (*kernels[:-1], jnp.pad(kernels[-1], ((0, 0), (0, padded - outputs))))
    biases = (*biases[:-1], jnp.pad(biases[-1], (0, padded - outputs)))
    points = x.reshape(-1, x.shape[-1])
    count = points.shape[0]
    call = pl.pallas_call(
        functools.partial(
            _kernel, count=count, layers=len(kernels), frequency=frequency, dtype=dtype, interpret=interpret
        ),
        out_shape=jax.ShapeDtypeStruct((count, padded), jnp.float32),
        grid=(pl.cdiv(count, _BLOCK),),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="sine_mlp",
    )
    operands = [points.astype(jnp.float32)]
    operands += [k.astype(dtype) for k in kernels]
    operands += [b.astype(jnp.float32) for b in biases]
    return call(*operands)[:, :outputs].reshape(*x.shape[:-1], outputs)


def _kernel(x_ref, *refs, count, layers, frequency, dtype, interpret):
    kernel_refs, bias_refs, out_ref = refs[:layers], refs[layers:-1], refs[-1]
    rows = pl.ds(pl.program_id(0) * _BLOCK, _BLOCK)
    inside = pl.program_id(0) * _BLOCK + jnp.arange(_BLOCK) < count

    def activate(y):
        y = y * jnp.float32(frequency)
        if interpret:
            return sine(y).astype(dtype)
        out = jax.ShapeDtypeStruct(y.shape, jnp.float32)
        (y,) = plgpu.elementwise_inline_asm(
            _SINE_PTX, args=[y], constraints="=f,f", pack=1, result_shape_dtypes=[out]
        )
        return y.astype(dtype)

    def product(y, kernel, bias):
        return plgpu.dot(y, kernel) + bias[None]

    def load(ref, *index):
        return plgpu.load(ref.at[index])

    whole = slice(None)
    mask = jnp.broadcast_to(inside[:, None], (_BLOCK, x_ref.shape[1]))
    x = plgpu.load(x_ref.at[rows, whole], mask=mask, other=0.0)
    x = activate(x + load(bias_refs[0], whole)[None])
    x = activate(product(x, load(kernel_refs[0], whole, whole), load(bias_refs[1], whole)))
    # The widest layer, slice by slice, straight into the one after it.
    total = jnp.zeros((_BLOCK, kernel_refs[2].shape[1]), jnp.float32) + load(bias_refs[3], whole)[None]
    for start in range(0, kernel_refs[1].shape[1], _SLICE):
        part = pl.ds(start, _SLICE)
        hidden = activate(product(x, load(kernel_refs[1], whole, part), load(bias_refs[2], part)))
        total += plgpu.dot(hidden, load(kernel_refs[2], part, whole))
    if layers == 4:
        total = product(activate(total), load(kernel_refs[3], whole, whole), load(bias_refs[4], whole))
    plgpu.store(out_ref.at[rows, whole], total, mask=jnp.broadcast_to(inside[:, None], total.shape))
