"""What kernels for Hopper GPUs do with 64 points in the registers of a warpgroup.

An accumulator is [64, N] float32 as wgmma lays it out: a lane has two points, 8 rows apart, and of every 8 columns two
neighbours. An operand is [64, 64] in 16 bits, the same way: the A operand of wgmma, which need not go through shared
memory. Channels are in the order of `layout.reorder`.
"""

import functools
from typing import Any, NamedTuple

from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm

from stvsr_jax.ops.mosaic import lane, points_interpreted, private
from stvsr_jax.ops.mosaic.lane import Place
from stvsr_jax.ops.mosaic.layout import AS_NARROW_TILES, NARROW, POINTS
from stvsr_jax.ops.mosaic.private import ACC
from stvsr_jax.ops.mosaic.windows import AS_TILES, CHUNK
from stvsr_jax.ops.sampling import Samples


class PointOps(NamedTuple):
    """Operations on 64 points; `point` is the first of them, weights are tiles in shared memory.

    Attributes:
      zeros: () -> accumulator [64, 64].
      zero_outputs: () -> accumulator [64, outputs, padded].
      add_rows: (acc, `Samples` or array [P, 64], point) -> acc plus the rows of the points.
      read_narrow: (array [P, 16], point) -> operand [64, 16].
      round: acc -> operand.
      multiply: (acc, operands, weights [64, 64] of each) -> acc plus their products.
      multiply_transposed: the same with the weights' transposes.
      multiply_last: (acc of outputs, operand, weights of the last layer) -> acc plus the product.
      multiply_first: (acc, operand of the outputs' gradients, weights of the last layer) -> acc plus the product with
        the transpose.
      activate: (acc, bias [64]) -> operand, the sines.
      differentiate: (gradient, acc, bias [64]) -> acc: the gradient times the derivative of the sines.
      add_columns: (acc, totals [4, 64], point) -> None; reduces over each warp's points, adds to the totals.
      store_outputs: (acc of outputs, bias, result, point) -> None.
      store: (acc, result [P, 64], point) -> None.
      store_operand: (operand, result [P, C], point, first channel) -> None.
    """

    zeros: Any
    zero_outputs: Any
    add_rows: Any
    read_narrow: Any
    round: Any
    multiply: Any
    multiply_transposed: Any
    multiply_last: Any
    multiply_first: Any
    activate: Any
    differentiate: Any
    add_columns: Any
    store_outputs: Any
    store: Any
    store_operand: Any


def make(count: int, dtype: Any, interpret: Any, *, outputs: int = CHUNK, frequency: float = 1.0) -> PointOps:
    """Returns the operations.

    Args:
      count: points P.
      dtype: of the operands.
      interpret: Mosaic GPU's `InterpretGPUParams`, or None on a GPU.
      outputs: columns of the last layer.
      frequency: factor of the accumulator in the sines' arguments.
    """
    if interpret is not None:
        return PointOps(**points_interpreted.make(count, dtype, outputs, frequency))
    operations = _make_memory(count, dtype, outputs, frequency) | _make_products(dtype, outputs)
    return PointOps(**operations, **_make_sines(dtype, frequency))


_POINT = plgpu.Layout.WG_SPLAT(())  # one number, the same in all lanes
_PLAIN = plgpu.RefType()
_OPERAND = plgpu.Layout.WGMMA
_SHAPE = (POINTS, CHUNK)


def _describe_operand(dtype, width=CHUNK):
    return plgpu.ShapeDtypeStruct((POINTS, width), dtype, layout=_OPERAND)


def _make_memory(count, dtype, outputs, frequency):
    """Returns what loads and stores."""
    acc_type = private.describe_acc(_SHAPE)

    def add_rows(acc, source, point):
        if isinstance(source, Samples):
            for k in range(source.index.shape[0]):
                acc = add_samples(acc, source.table, source.index.at[k], source.weight.at[k], point)
            return acc
        return add_points(acc, source, point)

    @plgpu.inline_mgpu(arg_types=(ACC, _PLAIN, _PLAIN, _PLAIN, _POINT), return_type=acc_type)
    def add_samples(context, acc, table, index, weight, point):
        place = Place(point, count)
        i32, f32 = ir.IntegerType.get_signless(32), ir.F32Type.get()
        rows = [llvm.load(i32, lane.address_of(index, p)) for p in place.points]
        weights = [llvm.load(f32, lane.address_of(weight, p)) for p in place.points]
        return lane.add_rows(acc, table, rows, place.quarter, weights)

    @plgpu.inline_mgpu(arg_types=(ACC, _PLAIN, _POINT), return_type=acc_type)
    def add_points(context, acc, table, point):
        place = Place(point, count)
        return lane.add_rows(acc, table, place.points, place.quarter, None)

    @plgpu.inline_mgpu(arg_types=(_PLAIN, _POINT), return_type=_describe_operand(dtype, NARROW))
    def read_narrow(context, table, point):
        return lane.read_narrow(table, Place(point, count))

    @plgpu.inline_mgpu(arg_types=(ACC, _PLAIN, _POINT))
    def add_columns(context, acc, totals, point):
        lane.add_columns(lane.values_of_acc(acc), totals, Place(point, count))

    @plgpu.inline_mgpu(arg_types=(ACC, _PLAIN, _PLAIN, _POINT))
    def store_outputs(context, acc, bias, out, point):
        lane.store_outputs(lane.add_bias(acc, bias), Place(point, count), out, outputs)

    @plgpu.inline_mgpu(arg_types=(ACC, _PLAIN, _POINT))
    def store(context, acc, out, point):
        lane.store_chunk(lane.values_of_acc(acc), Place(point, count), out, None)

    @plgpu.inline_mgpu(arg_types=(_OPERAND, _PLAIN, _POINT, _POINT))
    def store_operand(context, chunk, out, point, first):
        values = [lane.part_of(pair, neighbour) for pair in chunk.registers.flat for neighbour in range(2)]
        lane.store_chunk(values, Place(point, count), out, first.registers.item())

    return dict(
        add_rows=add_rows,
        read_narrow=read_narrow,
        add_columns=add_columns,
        store_outputs=store_outputs,
        store=store,
        store_operand=store_operand,
    )


def _make_products(dtype, outputs):
    """Returns accumulators of zeros, and what multiplies."""
    is_narrow = outputs <= NARROW
    acc_type, matrix = private.describe_acc(_SHAPE), plgpu.RefType(AS_TILES)
    out_shape = (POINTS, NARROW if is_narrow else CHUNK)
    last, swizzle = plgpu.RefType(AS_NARROW_TILES) if is_narrow else matrix, 2 * out_shape[1]

    def multiply_chunks(acc, operands, weights, is_transposed=False):
        types = (ACC, [_OPERAND] * len(operands), [matrix] * len(operands))

        @plgpu.inline_mgpu(arg_types=types, return_type=acc_type)
        def multiply(context, acc, operands, weights):
            weights = [lane.transpose(w) if is_transposed else w for w in weights]
            return private.finish_wgmma(acc, operands, weights, 2 * CHUNK)

        return multiply(acc, operands, weights)

    @plgpu.inline_mgpu(arg_types=(ACC, _OPERAND, last), return_type=private.describe_acc(out_shape))
    def multiply_last(context, acc, chunk, weights):
        return private.finish_wgmma(acc, [chunk], [weights], swizzle)

    @plgpu.inline_mgpu(arg_types=(ACC, _OPERAND, last), return_type=acc_type)
    def multiply_first(context, acc, chunk, weights):
        return private.finish_wgmma(acc, [chunk], [lane.transpose(weights)], swizzle)

    return dict(
        zeros=private.make_zeros(_SHAPE),
        zero_outputs=private.make_zeros(out_shape),
        multiply=multiply_chunks,
        multiply_transposed=functools.partial(multiply_chunks, is_transposed=True),
        multiply_last=multiply_last,
        multiply_first=multiply_first,
    )


def _make_sines(dtype, frequency):
    """Returns what happens to each value of an accumulator."""
    operand_type = _describe_operand(dtype)

    @plgpu.inline_mgpu(arg_types=(ACC,), return_type=operand_type)
    def round_acc(context, acc):
        return lane.as_operand(lane.values_of_acc(acc), dtype)

    @plgpu.inline_mgpu(arg_types=(ACC, _PLAIN), return_type=operand_type)
    def activate(context, acc, bias):
        arguments = lane.add_bias(acc, bias, frequency)
        return lane.as_operand([lane.approximate("sin", v) for v in arguments], dtype)

    @plgpu.inline_mgpu(arg_types=(ACC, ACC, _PLAIN), return_type=private.describe_acc(_SHAPE))
    def differentiate(context, gradient, acc, bias):
        slopes = [lane.approximate("cos", v) for v in lane.add_bias(acc, bias, frequency)]
        factor = lane.make_constant(frequency, ir.F32Type.get())
        products = [
            arith.mulf(arith.mulf(g, factor), s)
            for g, s in zip(lane.values_of_acc(gradient), slopes, strict=True)
        ]
        return lane.as_acc(products, acc)

    return dict(round=round_acc, activate=activate, differentiate=differentiate)
