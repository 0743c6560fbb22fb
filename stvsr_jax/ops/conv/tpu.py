"""The 3x3 convolution and the gradient of its kernel as Pallas kernels for TPUs.

Pixels lie along the lanes, channels along the sublanes: arrays are [C, P], P = B H W pixels of all images, row by row. So
64 channels take the place of 64, where XLA's layouts for matrix units take that of 128. A block of pixels is read with a
halo on both sides; the nine shifted copies of a chunk are put one below the other in VMEM (im2col), [9 C, pixels], and
are one product with the kernel. What lies outside of an image is replaced by zeros.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

TAPS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
LANES = 128
_ROWS = 16  # of a tile of 16 bits
_BLOCK = 2048  # pixels, about
_CHUNK = 256  # pixels of a product, at most: 512 take four times as long to compile
_LARGEST_WIDTH = 4096
_MOST_CHANNELS = 256


class Plan(NamedTuple):
    """How P pixels of images of a size (H, W) are split: `count` blocks, `halo` lanes around each, chunks of a block."""

    size: tuple[int, int]
    pixels: int
    halo: int
    block: int
    chunk: int

    @classmethod
    def of(cls, pixels: int, size: tuple[int, int]) -> "Plan":
        """Returns the plan for so many pixels."""
        halo = _round_up(size[1] + 1, LANES)
        block = halo * max(1, min(_BLOCK, pixels) // halo)
        chunk = next(c for c in range(_CHUNK, 0, -LANES) if block % c == 0)
        return cls(size, pixels, halo, block, chunk)

    @property
    def count(self) -> int:
        """Blocks."""
        return pl.cdiv(self.pixels, self.block)


def _round_up(value, multiple):
    return -(-value // multiple) * multiple


def is_supported(inputs: Sequence[jax.Array], kernel: jax.Array, stride: int, padding: int) -> bool:
    """Returns whether `run` can, of inputs [B, H, W, C_i] and a kernel [3, 3, C, C']."""
    return (
        kernel.ndim == 4
        and (*kernel.shape[:2], stride, padding) == (3, 3, 1, 1)
        and all(x.ndim == 4 and x.dtype in (jnp.bfloat16, jnp.float32) for x in inputs)
        and kernel.shape[2] <= _MOST_CHANNELS
        and inputs[0].shape[2] <= _LARGEST_WIDTH
    )


def run(
    size: tuple[int, int],
    inputs: Sequence[jax.Array],
    kernel: jax.Array,
    bias: jax.Array | None = None,
    addend: jax.Array | None = None,
    *,
    slope: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Returns ReLU(conv(inputs) + bias + addend), see `ops.conv2d`.

    Args:
      size: (H, W) of the images.
      inputs: [C_i, P], concatenated along the channels; P = B H W.
      kernel: [3, 3, C, C'].
      bias: [C'] or None.
      addend: [C', P] or None.
      slope: of the ReLU where its input is negative; None: no ReLU.
      interpret: run on any device.

    Returns:
      [C', P] in the dtype of the inputs.
    """
    dtype = inputs[0].dtype
    ends = np.cumsum([len(x) for x in inputs])[:-1]
    kernel = jnp.concatenate([_pad(part, 2) for part in jnp.split(kernel, ends, axis=2)], axis=2)
    images = [_pad(x, 0) for x in inputs]
    plan = Plan.of(images[0].shape[1], size)
    out_channels = kernel.shape[-1]
    weights = kernel.reshape(-1, out_channels).T.astype(dtype)
    bias = jnp.zeros(out_channels) if bias is None else bias
    whole = [weights, bias.astype(jnp.float32)[:, None]]
    addends = [] if addend is None else [addend]
    return pl.pallas_call(
        functools.partial(_forward, plan, slope, len(images), len(addends)),
        out_shape=jax.ShapeDtypeStruct((out_channels, plan.pixels), dtype),
        grid=(plan.count,),
        in_specs=[
            *(spec for x in images for spec in _window_specs(plan, len(x))),
            *(_block_spec(plan, out_channels) for _ in addends),
            *(pl.BlockSpec(a.shape, lambda i: (0, 0)) for a in whole),
        ],
        out_specs=_block_spec(plan, out_channels),
        scratch_shapes=_scratch(plan, kernel.shape[2], dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=_cost(
            plan, images, [*addends, weights], kernel.size, out_channels * plan.pixels * dtype.itemsize
        ),
        interpret=interpret,
        name="conv",
    )(*(a for x in images for a in (x, x, x)), *addends, *whole)


def run_kernel_gradient(
    size: tuple[int, int], x: jax.Array, cotangent: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """Returns the gradient of a 3x3 kernel.

    Args:
      size: (H, W) of the images.
      x: [C, P], what the kernel read.
      cotangent: [C', P].
      interpret: run on any device.

    Returns:
      [3, 3, C, C'] float32.
    """
    read, out_channels = len(x), len(cotangent)
    image, g = _pad(x, 0), cotangent.astype(x.dtype)
    channels = len(image)
    plan = Plan.of(image.shape[1], size)
    shape = (len(TAPS) * channels, out_channels)
    gradient = pl.pallas_call(
        functools.partial(_backward, plan),
        out_shape=jax.ShapeDtypeStruct(shape, jnp.float32),
        grid=(plan.count,),
        in_specs=[*_window_specs(plan, channels), _block_spec(plan, out_channels)],
        out_specs=pl.BlockSpec(shape, lambda i: (0, 0)),
        scratch_shapes=_scratch(plan, channels, x.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        cost_estimate=_cost(plan, [image], [g], shape[0] * shape[1], 4 * shape[0] * shape[1]),
        interpret=interpret,
        name="conv_kernel_gradient",
    )(image, image, image, g)
    return gradient.reshape(3, 3, channels, out_channels)[:, :, :read]


def run_backward(
    size: tuple[int, int],
    inputs: Sequence[jax.Array],
    kernel: jax.Array,
    cotangent: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """Returns the gradients of a convolution's inputs and of its kernel.

    Args:
      size: (H, W) of the images.
      inputs: [C_i, P], concatenated along the channels.
      kernel: [3, 3, C, C'].
      cotangent: [C', P].
      interpret: run on any device.
    """
    ends = np.cumsum([len(x) for x in inputs])[:-1]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    d_inputs = run(size, (cotangent,), turned, interpret=interpret)
    d_kernels = [run_kernel_gradient(size, x, cotangent, interpret=interpret) for x in inputs]
    return tuple(jnp.split(d_inputs, ends, axis=0)), jnp.concatenate(d_kernels, axis=2).astype(kernel.dtype)


def _pad(x, axis):
    """Returns the array with channels of zeros up to whole tiles of 16 bits."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, -x.shape[axis] % _ROWS)
    return jnp.pad(x, pads)


def _cost(plan, images, others, weights, written):
    read = sum(len(x) * x.dtype.itemsize for x in images) * plan.count * (plan.block + 2 * plan.halo)
    read += sum(x.size * x.dtype.itemsize for x in others)
    return pl.CostEstimate(flops=2 * plan.pixels * weights, bytes_accessed=read + written, transcendentals=0)


def _block_spec(plan, channels):
    return pl.BlockSpec((channels, plan.block), lambda i: (0, i))


def _window_specs(plan, channels):
    """Specs of the halo before a block, of the block, and of the halo after; beyond the ends any pixels stand there."""
    per_block, last = plan.block // plan.halo, pl.cdiv(plan.pixels, plan.halo) - 1
    return [
        pl.BlockSpec((channels, plan.halo), lambda i: (0, jnp.maximum(i * per_block - 1, 0))),
        _block_spec(plan, channels),
        pl.BlockSpec((channels, plan.halo), lambda i: (0, jnp.minimum((i + 1) * per_block, last))),
    ]


def _scratch(plan, channels, dtype):
    return [
        pltpu.VMEM((channels, plan.block + 2 * plan.halo), jnp.float32),
        pltpu.VMEM((len(TAPS) * channels, plan.chunk), dtype),
    ]


def _forward(plan, slope, image_count, addend_count, *refs):
    parts, refs = refs[: 3 * image_count], refs[3 * image_count :]
    addends, (weights, bias, out, window, columns) = refs[:addend_count], refs[addend_count:]
    _load_windows(plan, window, parts)

    def run_chunk(chunk, lanes):
        _write_columns(plan, window, columns, chunk)
        y = _dot(weights[...], columns[...]) + bias[...]
        for addend in addends:
            y = y + addend[:, lanes].astype(jnp.float32)
        if slope is not None:
            y = jnp.maximum(y, slope * y)
        out[:, lanes] = y.astype(out.dtype)

    _for_each_chunk(plan, run_chunk)


def _backward(plan, before, here, after, cotangent, gradient, window, columns):
    _load_windows(plan, window, (before, here, after))

    @pl.when(pl.program_id(0) == 0)
    def _():
        gradient[...] = jnp.zeros_like(gradient)

    def run_chunk(chunk, lanes):
        _write_columns(plan, window, columns, chunk)
        g = cotangent[:, lanes]
        g = jnp.where(_pixels(plan, chunk, 1) < plan.pixels, g.astype(jnp.float32), 0.0).astype(g.dtype)
        gradient[...] += _dot(columns[...], g, ((1,), (1,)))

    _for_each_chunk(plan, run_chunk)


def _for_each_chunk(plan, run_chunk):
    first = pl.program_id(0) * (plan.block // plan.chunk)  # chunks before this block

    def body(number, _):
        start = pl.multiple_of(number * plan.chunk, LANES)
        run_chunk((first + number, start), pl.ds(start, plan.chunk))
        return 0

    jax.lax.fori_loop(0, plan.block // plan.chunk, body, 0)


def _load_windows(plan, window, parts):
    row = 0
    for before, here, after in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        rows = slice(row, row + here.shape[0])
        window[rows, : plan.halo] = before[...].astype(jnp.float32)
        window[rows, plan.halo : plan.halo + plan.block] = here[...].astype(jnp.float32)
        window[rows, plan.halo + plan.block :] = after[...].astype(jnp.float32)
        row += here.shape[0]


def _pixels(plan, chunk, rows):
    """Returns the numbers of a chunk's pixels, [rows, chunk] int32."""
    return chunk[0] * plan.chunk + jax.lax.broadcasted_iota(jnp.int32, (rows, plan.chunk), 1)


def _write_columns(plan, window, columns, chunk):
    """Writes the shifted copies of all taps, zero outside of the images and after the last pixel."""
    channels, (height, width) = window.shape[0], plan.size
    pixel = _pixels(plan, chunk, 8)
    row = jax.lax.div(pixel, jnp.int32(width))
    x = pixel - row * width
    y = jax.lax.rem(row, jnp.int32(height))
    is_pixel = pixel < plan.pixels
    for tap, (step_y, step_x) in enumerate(TAPS):
        inside = (
            is_pixel & (y + step_y >= 0) & (y + step_y < height) & (x + step_x >= 0) & (x + step_x < width)
        )
        start, rest = divmod(plan.halo + step_y * width + step_x, LANES)
        span = plan.chunk + (LANES if rest else 0)
        wide = window[:, pl.ds(pl.multiple_of(chunk[1] + start * LANES, LANES), span)]
        shifted = (pltpu.roll(wide, span - rest, 1) if rest else wide)[:, : plan.chunk]
        columns[tap * channels : (tap + 1) * channels, :] = _keep(inside, shifted).astype(columns.dtype)


def _keep(inside, x):
    """Returns x [C, pixels] where `inside` [8, pixels], elsewhere zero.

    The rows of `inside` are equal. A mask of one row would be compiled row by row of x, to eight times as many instructions.
    """
    registers = x.reshape(-1, *inside.shape)
    return jnp.where(inside, registers, 0.0).reshape(x.shape)


def _dot(a: Any, b: Any, contract=((1,), (0,))):
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (contract, ((), ())), precision=exact, preferred_element_type=jnp.float32
    )
