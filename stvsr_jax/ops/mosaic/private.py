"""The parts of JAX's Mosaic GPU lowering that are no public API, and the accumulators of wgmma that are made of them.

Pallas' own wgmma takes only operands that begin at a tile. So accumulators pass from one `inline_mgpu` to the next as
arrays in the layout of wgmma's results. `tests/ops/test_private_names.py` fails by name if a new JAX lacks a part.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir.dialects import nvvm

ACC = plgpu.Layout._WGMMA_ACC_32BIT  # float32 in registers, as wgmma writes it


def describe_acc(shape: tuple[int, int]) -> plgpu.ShapeDtypeStruct:
    """Returns the type of an accumulator."""
    return plgpu.ShapeDtypeStruct(shape, jnp.float32, layout=ACC)


def make_zeros(shape: tuple[int, int]) -> Callable[[], jax.Array]:
    """Returns a function that returns an accumulator of zeros."""

    @plgpu.inline_mgpu(return_type=describe_acc(shape))
    def zeros(context):
        # Pallas numbers kernels as they come, for dumps. Without a number equal kernels are equal: they are compiled
        # once, and a program with them is found in JAX's compilation cache.
        attributes = context.module.operation.attributes
        attributes["mosaic_gpu.dump_basename"] = attributes["sym_name"]
        return mgpu.WGMMAAccumulator.zero(*shape)._value

    return zeros


def start_wgmma(acc, left, right):
    """Inside `inline_mgpu`: returns acc + left @ right, which the tensor cores still work on."""
    acc = mgpu.WGMMAAccumulator(_value=acc, _original_layout=acc.layout, _sync=False)
    acc = mgpu.wgmma(acc, left, right)
    nvvm.wgmma_commit_group_sync_aligned()
    return acc._value


def finish_wgmma(acc, operands, weights, swizzle):
    """Inside `inline_mgpu`: returns acc plus the products of operands in registers with tiles, when they are there."""
    total = mgpu.WGMMAAccumulator.from_registers(acc)
    for operand, part in zip(operands, weights, strict=True):
        total = mgpu.wgmma(total, operand, part, swizzle=swizzle)
    nvvm.wgmma_commit_group_sync_aligned()
    nvvm.wgmma_wait_group_sync_aligned(0)
    return mgpu.fragmented_array.optimization_barrier(total._value)  # no read of it moves up before the wait


def make_fragments(registers, layout, is_signed=None) -> mgpu.FragmentedArray:
    """Inside `inline_mgpu`: returns an array in registers from its registers."""
    return mgpu.FragmentedArray(_registers=registers, _layout=layout, _is_signed=is_signed)
