"""Bilinear upsampling by 2 for CUDA GPUs (Pallas, Triton lowering): one kernel for both axes, and one for backward.

Values are float32 in registers. A program makes the four outputs, or the gradient, of a block of input pixels.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stvsr_jax.ops.deform_conv.triton import divide

_VALUES = 1024  # of a program's block of input pixels: 16 bytes for each thread of four warps


def is_supported(x: jax.Array) -> bool:
    """Returns whether a GPU can run the kernels: 16 bits, a power of two of channels, indices of 32 bits."""
    channels = x.shape[-1]
    return (
        x.dtype in (jnp.bfloat16, jnp.float16)
        and channels & (channels - 1) == 0
        and channels <= _VALUES
        and 4 * x.size < 2**31
    )


def run(x: jax.Array, scale: float, *, interpret: bool = False) -> jax.Array:
    """Runs the kernel: [B, H, W, C] to `scale` times its double, [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    shape = (batch, 2 * height, 2 * width, channels)
    return _call(_forward_kernel, x, x.shape, scale, shape, interpret)


def run_backward(cotangent: jax.Array, scale: float, *, interpret: bool = False) -> jax.Array:
    """Runs the transposed kernel: [B, 2H, 2W, C] to [B, H, W, C]."""
    batch, height, width, channels = cotangent.shape
    shape = (batch, height // 2, width // 2, channels)
    return _call(_backward_kernel, cotangent, shape, scale, shape, interpret)


def _call(kernel, operand, in_shape, scale, out_shape, interpret):
    call = pl.pallas_call(
        functools.partial(kernel, shape=in_shape, scale=scale),
        out_shape=jax.ShapeDtypeStruct((math.prod(out_shape),), operand.dtype),
        grid=(pl.cdiv(math.prod(in_shape), _VALUES),),
        compiler_params=plgpu.CompilerParams(num_warps=4),
        name="bilinear" + kernel.__name__,
        interpret=interpret,
    )
    return call(operand.reshape(-1)).reshape(out_shape)


def _forward_kernel(x_ref, out_ref, *, shape, scale):
    """Interleaves (previous + 3 x) / 4 and (3 x + next) / 4 along both axes."""
    _, height, width, channels = shape
    line, y, x, channel = _pixels(shape)
    columns = (jnp.maximum(x - 1, 0), x, jnp.minimum(x + 1, width - 1))
    lines = (jnp.where(y > 0, line - 1, line), line, jnp.where(y < height - 1, line + 1, line))

    def load(line, column):
        value = plgpu.load(x_ref.at[(line * width + column) * channels + channel])
        return value.astype(jnp.float32)

    by_line = [_double(*(load(line, column) for column in columns)) for line in lines]
    for part_x in (0, 1):
        for part_y, value in enumerate(_double(*(doubled[part_x] for doubled in by_line))):
            index = ((2 * line + part_y) * 2 * width + 2 * x + part_x) * channels + channel
            plgpu.store(out_ref.at[index], (scale * value).astype(out_ref.dtype))


def _double(previous, value, following):
    return 0.25 * previous + 0.75 * value, 0.75 * value + 0.25 * following


def _backward_kernel(cotangent_ref, d_x_ref, *, shape, scale):
    """Gathers the cotangents of what read a pixel. At an edge it was read in the place of the missing neighbour, too."""
    _, height, width, channels = shape
    line, y, x, channel = _pixels(shape)

    def readers(at, size):  # (weight, output row or column) of the four outputs that read input `at`
        first, last = jnp.maximum(2 * at - 1, 0), jnp.minimum(2 * at + 2, 2 * size - 1)
        return ((0.25, first), (0.75, 2 * at), (0.75, 2 * at + 1), (0.25, last))

    total = jnp.zeros((line + channel).shape, jnp.float32)
    for weight_y, row in readers(y, height):
        for weight_x, column in readers(x, width):
            # The line counts those of all images, the row only those of its own.
            index = ((2 * (line - y) + row) * 2 * width + column) * channels + channel
            total += (weight_y * weight_x) * plgpu.load(cotangent_ref.at[index]).astype(jnp.float32)
    plgpu.store(d_x_ref.at[(line * width + x) * channels + channel], (scale * total).astype(d_x_ref.dtype))


def _pixels(shape):
    """Returns of this program's input pixels the line of all images, y and x, [pixels, 1], and the channels, [1, C].

    The last pixel fills up the last block, made several times.
    """
    batch, height, width, channels = shape
    block = _VALUES // channels
    pixel = pl.program_id(0) * block + jnp.arange(block, dtype=jnp.int32)[:, None]
    pixel = jnp.minimum(pixel, batch * height * width - 1)
    line, x = divide(pixel, width)
    _, y = divide(line, height)
    return line, y, x, jnp.arange(channels, dtype=jnp.int32)[None, :]
