"""What kernels for Hopper GPUs do with 64 points in registers: sums, products, sines, loads and stores.

128 threads hold 64 points together. Of their sums, [64, N] in float32, each thread has those of two points, 8 rows
apart, in two neighbouring columns of every 8. An operand of a product is [64, 64] in 16 bits, the same way.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, nvvm, vector

from stvsr_jax.ops.mosaic.windows import CHUNK, INTERLEAVED, SUMS, describe_sums, make_start
from stvsr_jax.ops.sampling import Samples
from stvsr_jax.ops.sine import cosine, sine

POINTS = 64
WARPS = 4  # of 32 threads, which have 16 points
NARROW = 16  # channels of a last layer's kernel that is padded
AS_TILES = (plgpu.TilingTransform((8, CHUNK)), INTERLEAVED)
AS_NARROW_TILES = (plgpu.TilingTransform((8, NARROW)), plgpu.SwizzleTransform(2 * NARROW))


class Registers(NamedTuple):
    """The operations; `point` is the first of the 64, weights are parts of those in shared memory.

    Attributes:
      start: () -> sums [64, 64] of nothing.
      start_outputs: () -> sums [64, outputs, padded].
      add_rows: (sums, `Samples` or array [P, 64], point) -> sums with the rows of the points.
      read_narrow: (array [P, 16], point) -> operand [64, 16].
      round: sums -> operand.
      multiply: (sums, operands, weights [64, 64] of each) -> sums with their products.
      multiply_transposed: the same with the weights' transposes.
      multiply_last: (sums of outputs, operand, weights of the last layer) -> the same.
      multiply_first: (sums, operand of the outputs' gradients, weights of the last layer) -> sums with the product with
        its transpose.
      activate: (sums, bias [64]) -> operand, the sines.
      differentiate: (gradient, sums, bias [64]) -> sums, the gradient times the sines' derivative.
      add_columns: (sums, totals [4, 64], point) -> None; adds the sums over a warp's points.
      store: (sums of outputs, bias, result, point) -> None.
      store_sums: (sums, result [P, 64], point) -> None.
      store_operand: (operand, result [P, C], point, first channel) -> None.
    """

    start: Any
    start_outputs: Any
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
    store: Any
    store_sums: Any
    store_operand: Any


def reorder(x: jax.Array, *axes: int) -> jax.Array:
    """Return x with its channels along these axes in the order of the registers, or back.

    Of every 32 channels a thread gets 8 in a row, to be fetched and stored at once, where the matrix unit's four
    threads of a point have two of every 8.
    """
    for axis in axes:
        axis %= x.ndim
        parts = x.reshape(*x.shape[:axis], -1, 4, 4, 2, *x.shape[axis + 1 :])
        x = parts.swapaxes(axis + 1, axis + 2).reshape(x.shape)
    return x


def make(
    count: int, dtype: Any, interpret: Any, *, outputs: int = CHUNK, frequency: float = 1.0
) -> Registers:
    """Return the operations for P = `count` points, products of this dtype, and sines of `frequency` times the sums."""
    is_narrow = outputs <= NARROW
    if interpret is not None:
        return _make_interpreted(count, dtype, outputs, frequency)
    shape, out_shape = (POINTS, CHUNK), (POINTS, NARROW if is_narrow else CHUNK)
    splat, operand = plgpu.Layout.WG_SPLAT(()), plgpu.Layout.WGMMA
    describe_operand = plgpu.ShapeDtypeStruct(shape, dtype, layout=operand)
    plain, matrix = plgpu.RefType(), plgpu.RefType(AS_TILES)
    last = plgpu.RefType(AS_NARROW_TILES) if is_narrow else matrix
    swizzle = 2 * out_shape[1]

    def add_rows(sums, source, point):
        if isinstance(source, Samples):
            for k in range(source.index.shape[0]):
                sums = add_samples(sums, source.table, source.index.at[k], source.weight.at[k], point)
            return sums
        return add_points(sums, source, point)

    @plgpu.inline_mgpu(arg_types=(SUMS, plain, plain, plain, splat), return_type=describe_sums(shape))
    def add_samples(context, sums, table, index, weight, point):
        place = Place(point, count)
        rows = [llvm.load(ir.IntegerType.get_signless(32), address_of(index, p)) for p in place.points]
        weights = [llvm.load(ir.F32Type.get(), address_of(weight, p)) for p in place.points]
        return _add_rows(sums, table, rows, place.quarter, weights)

    @plgpu.inline_mgpu(arg_types=(SUMS, plain, splat), return_type=describe_sums(shape))
    def add_points(context, sums, table, point):
        place = Place(point, count)
        return _add_rows(sums, table, place.points, place.quarter, None)

    @plgpu.inline_mgpu(
        arg_types=(plain, splat), return_type=plgpu.ShapeDtypeStruct((POINTS, NARROW), dtype, layout=operand)
    )
    def read_narrow(context, table, point):
        return _read_narrow(table, Place(point, count))

    @plgpu.inline_mgpu(arg_types=(SUMS,), return_type=describe_operand)
    def round_sums(context, sums):
        return as_operand(values_of_sums(sums), dtype)

    def multiply_chunks(sums, operands, weights, is_transposed=False):
        types = (SUMS, [operand] * len(operands), [matrix] * len(operands))

        @plgpu.inline_mgpu(arg_types=types, return_type=describe_sums(shape))
        def multiply(context, sums, operands, weights):
            return _multiply(sums, operands, [_transpose(w) if is_transposed else w for w in weights])

        return multiply(sums, operands, weights)

    @plgpu.inline_mgpu(arg_types=(SUMS, operand, last), return_type=describe_sums(out_shape))
    def multiply_last(context, sums, chunk, weights):
        return _multiply(sums, [chunk], [weights], swizzle)

    @plgpu.inline_mgpu(arg_types=(SUMS, operand, last), return_type=describe_sums(shape))
    def multiply_first(context, sums, chunk, weights):
        return _multiply(sums, [chunk], [_transpose(weights)], swizzle)

    @plgpu.inline_mgpu(arg_types=(SUMS, plain), return_type=describe_operand)
    def activate(context, sums, bias):
        return as_operand([approximate("sin", v) for v in add_bias(sums, bias, frequency)], dtype)

    @plgpu.inline_mgpu(arg_types=(SUMS, SUMS, plain), return_type=describe_sums(shape))
    def differentiate(context, gradient, sums, bias):
        slopes = [approximate("cos", v) for v in add_bias(sums, bias, frequency)]
        factor = make_constant(frequency, ir.F32Type.get())
        products = [
            arith.mulf(arith.mulf(g, factor), s)
            for g, s in zip(values_of_sums(gradient), slopes, strict=True)
        ]
        return as_sums(products, sums)

    @plgpu.inline_mgpu(arg_types=(SUMS, plain, splat))
    def add_columns(context, sums, totals, point):
        _add_columns(values_of_sums(sums), totals, Place(point, count))

    @plgpu.inline_mgpu(arg_types=(SUMS, plain, plain, splat))
    def store(context, sums, bias, out, point):
        _store_outputs(add_bias(sums, bias), Place(point, count), out, outputs)

    @plgpu.inline_mgpu(arg_types=(SUMS, plain, splat))
    def store_sums(context, sums, out, point):
        store_chunk(values_of_sums(sums), Place(point, count), out, None)

    @plgpu.inline_mgpu(arg_types=(operand, plain, splat, splat))
    def store_operand(context, chunk, out, point, first):
        values = [part_of(pair, neighbour) for pair in chunk.registers.flat for neighbour in range(2)]
        store_chunk(values, Place(point, count), out, first.registers.item())

    return Registers(
        make_start(shape),
        make_start(out_shape),
        add_rows,
        read_narrow,
        round_sums,
        multiply_chunks,
        functools.partial(multiply_chunks, is_transposed=True),
        multiply_last,
        multiply_first,
        activate,
        differentiate,
        add_columns,
        store,
        store_sums,
        store_operand,
    )


def _make_interpreted(count, dtype, outputs, frequency):
    def start(columns=CHUNK):
        return jnp.zeros((POINTS, columns), jnp.float32)

    def read(ref, point):
        return ref[...][jnp.minimum(point + jnp.arange(POINTS), count - 1)]

    def add_rows(sums, source, point):
        if not isinstance(source, Samples):
            return sums + reorder(read(source, point).astype(jnp.float32), 1)
        for k in range(source.index.shape[0]):
            rows = source.table[...][read(source.index.at[k], point)].astype(jnp.float32)
            sums = sums + reorder(rows, 1) * read(source.weight.at[k], point)[:, None]
        return sums

    def multiply(sums, operands, weights, is_transposed=False):
        for a, b in zip(operands, weights, strict=True):
            b = b[...].T if is_transposed else b[...]
            sums = sums + jnp.dot(a, b, preferred_element_type=jnp.float32)
        return sums

    def argument(sums, bias):
        return jnp.float32(frequency) * sums + bias[...][None]

    def add_columns(sums, totals, point):
        is_inside = point + jnp.arange(POINTS) < count
        sums = jnp.where(is_inside[:, None], sums, 0.0)
        totals[...] += sums.reshape(WARPS, -1, CHUNK).sum(1)

    def store_rows(rows, out, point, first):
        @pl.loop(0, jnp.minimum(count - point, POINTS))
        def _(i):
            row = lax.dynamic_index_in_dim(rows, i, keepdims=False)
            out[point + i, pl.ds(first, rows.shape[1])] = row.astype(out.dtype)

    def store(sums, bias, out, point):
        rows = sums + bias[...][None, : sums.shape[1]]
        rows = rows[:, :outputs] if outputs <= NARROW else reorder(rows, 1)
        store_rows(rows, out, point, 0)

    return Registers(
        start,
        functools.partial(start, NARROW if outputs <= NARROW else CHUNK),
        add_rows,
        read,
        lambda sums: sums.astype(dtype),
        multiply,
        functools.partial(multiply, is_transposed=True),
        lambda sums, chunk, weights: multiply(sums, [chunk], [weights]),
        lambda sums, chunk, weights: multiply(sums, [chunk], [weights], is_transposed=True),
        lambda sums, bias: sine(argument(sums, bias)).astype(dtype),
        lambda gradient, sums, bias: gradient * jnp.float32(frequency) * cosine(argument(sums, bias)),
        add_columns,
        store,
        lambda sums, out, point: store_rows(reorder(sums, 1), out, point, 0),
        lambda chunk, out, point, first: store_rows(reorder(chunk, 1), out, point, first),
    )


# What follows runs where `inline_mgpu` does: it makes the instructions of one thread. Values are the numbers of its
# registers in the order column, point, neighbour.


class Place:
    """The two points of this thread, and which of the four threads of a point it is, as 32-bit numbers.

    `points` are those it reads: behind the last the last again.
    """

    def __init__(self, point, count):
        thread = arith.remui(mgpu.thread_idx(), make_constant(32 * WARPS))
        lane = lane_of_thread()
        row = arith.addi(
            times(arith.divui(thread, make_constant(32)), 16), arith.divui(lane, make_constant(4))
        )
        first = arith.addi(point.registers.item(), row)
        self.true_points = [first, arith.addi(first, make_constant(8))]
        self.points = [arith.minui(p, make_constant(count - 1)) for p in self.true_points]
        self.is_inside = [
            arith.cmpi(arith.CmpIPredicate.ult, p, make_constant(count)) for p in self.true_points
        ]
        self.quarter = arith.remui(lane, make_constant(4))


def make_constant(number, type_=None):
    type_ = type_ or ir.IntegerType.get_signless(32)
    attribute = ir.FloatAttr if type_ == ir.F32Type.get() else ir.IntegerAttr
    return arith.constant(type_, attribute.get(type_, number))


def times(x, number):
    return arith.muli(x, make_constant(number, x.type))


def as_long(x):
    return arith.extui(ir.IntegerType.get_signless(64), x)


def lane_of_thread():
    return arith.remui(mgpu.thread_idx(), make_constant(32))


def element_of(ref):
    return ir.MemRefType(ref.type).element_type


def address_of(ref, offset):
    """Returns where an element lies, from its number."""
    pointer = mgpu.utils.memref_ptr(ref)
    dynamic = [-(2**31)]
    flags = llvm.GEPNoWrapFlags.none
    return llvm.getelementptr(pointer.type, pointer, [offset], dynamic, element_of(ref), flags)


def step_pointer(pointer, count, element):
    return llvm.getelementptr(pointer.type, pointer, [], [count], element, llvm.GEPNoWrapFlags.none)


def load_numbers(pointer, count, element):
    """Returns numbers in a row, fetched at once."""
    both = llvm.load(ir.VectorType.get((count,), element), pointer)
    return [part_of(both, place) for place in range(count)]


def store_numbers(numbers, pointer):
    type_ = ir.VectorType.get((len(numbers),), numbers[0].type)
    llvm.store(vector.from_elements(type_, numbers), pointer)


def part_of(numbers, place):
    return vector.extract(numbers, dynamic_position=[], static_position=ir.DenseI64ArrayAttr.get([place]))


def values_of_sums(sums):
    return [part_of(register, 0) for register in sums.registers.flat]


def as_sums(values, like):
    type_ = ir.VectorType.get((1,), ir.F32Type.get())
    registers = np.array([vector.broadcast(type_, v) for v in values], dtype=object)
    return mgpu.FragmentedArray(
        _registers=registers.reshape(like.registers.shape), _layout=like.layout, _is_signed=None
    )


def as_operand(values, dtype):
    pair, short = ir.VectorType.get((2,), ir.F32Type.get()), mgpu.utils.dtype_to_ir_type(dtype)
    pairs = [vector.from_elements(pair, both) for both in zip(values[::2], values[1::2], strict=True)]
    return make_operand([arith.truncf(ir.VectorType.get((2,), short), both) for both in pairs])


def make_operand(registers):
    shape = mgpu.WGMMA_LAYOUT.registers_shape((POINTS, 4 * len(registers)))
    registers = np.array(registers, dtype=object).reshape(shape)
    return mgpu.FragmentedArray(_registers=registers, _layout=mgpu.WGMMA_LAYOUT, _is_signed=None)


def _read_narrow(table, place):
    registers = []
    for eighth in range(NARROW // 8):
        for point in place.points:
            column = arith.addi(times(place.quarter, 2), make_constant(8 * eighth))
            address = address_of(table, arith.addi(times(as_long(point), NARROW), as_long(column)))
            registers.append(llvm.load(ir.VectorType.get((2,), element_of(table)), address))
    return make_operand(registers)


def _add_rows(sums, table, rows, quarter, weights):
    """Returns sums with two rows of a table, times their weights if there are any."""
    element, f32 = element_of(table), ir.F32Type.get()
    together = 128 // mgpu.bitwidth(element)
    values = values_of_sums(sums)
    for half, row in enumerate(rows):
        address = address_of(table, arith.addi(times(as_long(row), CHUNK), as_long(times(quarter, 8))))
        for number, place in enumerate(places_of_point(half)):
            if number % together == 0:
                numbers = load_numbers(
                    step_pointer(address, 32 * (number // 8) + number % 8, element), together, element
                )
            value = numbers[number % together]
            value = value if element == f32 else arith.extf(f32, value)
            if weights is None:
                values[place] = arith.addf(values[place], value)
            else:
                values[place] = llvm.intr_fma(value, weights[half], values[place])
    return as_sums(values, sums)


def places_of_point(half):
    """Returns which values of [64, 64] belong to one of the two points: twice eight channels in a row; see `reorder`."""
    return [
        16 * block + 4 * j + 2 * half + neighbour
        for block in range(2)
        for j in range(4)
        for neighbour in range(2)
    ]


def _multiply(sums, operands, weights, swizzle=2 * CHUNK):
    total = mgpu.WGMMAAccumulator.from_registers(sums)
    for operand, part in zip(operands, weights, strict=True):
        total = mgpu.wgmma(total, operand, part, swizzle=swizzle)
    nvvm.wgmma_commit_group_sync_aligned()
    nvvm.wgmma_wait_group_sync_aligned(0)
    return mgpu.fragmented_array.optimization_barrier(total._value)  # not read before they are there


def _transpose(tiles):
    return mgpu.memref_transpose(tiles, (1, 0, 3, 2))


def add_bias(sums, bias, factor=None):
    """Returns sums + bias or factor * sums + bias, as values."""
    f32 = ir.F32Type.get()
    first = address_of(bias, times(arith.remui(lane_of_thread(), make_constant(4)), 2))
    terms = [
        load_numbers(step_pointer(first, 8 * eighth, f32), 2, f32) for eighth in range(sums.shape[1] // 8)
    ]
    terms = [pair[number % 2] for pair in terms for number in range(4)]
    pairs = zip(values_of_sums(sums), terms, strict=True)
    if factor is None:
        return [arith.addf(value, term) for value, term in pairs]
    factor = make_constant(factor, f32)
    return [llvm.intr_fma(value, factor, term) for value, term in pairs]


def approximate(function, value):
    """Returns the sine or cosine with an absolute error of 1e-7 times the argument, below what 16 bits resolve."""
    return llvm.inline_asm(ir.F32Type.get(), [value], f"{function}.approx.f32 $0, $1;", "=f,f")


def _add_columns(values, totals, place):
    """Adds up the 16 points of a warp; of the 64 sums each thread gets two, always the same."""
    zero = make_constant(0.0, ir.F32Type.get())
    values = [arith.select(place.is_inside[number // 2 % 2], v, zero) for number, v in enumerate(values)]
    columns = [
        [arith.addf(values[4 * j + neighbour], values[4 * j + 2 + neighbour]) for neighbour in range(2)]
        for j in range(CHUNK // 8)
    ]
    for distance in (16, 8, 4):
        is_upper = arith.cmpi(
            arith.CmpIPredicate.ne, arith.andi(lane_of_thread(), make_constant(distance)), make_constant(0)
        )
        lower, upper = columns[: len(columns) // 2], columns[len(columns) // 2 :]
        columns = [
            [_exchange(is_upper, a, b, distance) for a, b in zip(low, high, strict=True)]
            for low, high in zip(lower, upper, strict=True)
        ]
    warp = arith.remui(arith.divui(mgpu.thread_idx(), make_constant(32)), make_constant(WARPS))
    address = address_of(totals, arith.addi(times(warp, CHUNK), times(lane_of_thread(), 2)))
    old = load_numbers(address, 2, ir.F32Type.get())
    store_numbers([arith.addf(a, b) for a, b in zip(old, columns[0], strict=True)], address)


def _exchange(is_upper, low, high, distance):
    """Returns the number that this thread keeps plus that of the thread at a distance, which keeps the other."""
    kept, sent = arith.select(is_upper, high, low), arith.select(is_upper, low, high)
    return arith.addf(kept, mgpu.utils.shfl_bfly(sent, distance))


def store_chunk(values, place, out, first):
    """Writes 64 channels of the thread's points that there are, from channel `first` on."""
    element = element_of(out)
    values = [v if v.type == element else arith.truncf(element, v) for v in values]
    width, together = ir.MemRefType(out.type).shape[1], 128 // mgpu.bitwidth(element)
    column = times(place.quarter, 8)
    column = as_long(column if first is None else arith.addi(column, first))
    for half in range(2):
        with mgpu.when(place.is_inside[half]):
            address = address_of(out, arith.addi(times(as_long(place.true_points[half]), width), column))
            numbers = [values[number] for number in places_of_point(half)]
            for number in range(0, len(numbers), together):
                store_numbers(
                    numbers[number:][:together],
                    step_pointer(address, 32 * (number // 8) + number % 8, element),
                )


def _store_outputs(values, place, out, outputs):
    if outputs == CHUNK:
        store_chunk(values, place, out, None)
        return
    element = element_of(out)
    values = [v if v.type == element else arith.truncf(element, v) for v in values]
    column = times(place.quarter, 2)
    for half in range(2):
        for eighth in range(pl.cdiv(outputs, 8)):
            for neighbour in range(2):
                left = make_constant(max(outputs - 8 * eighth - neighbour, 0))
                is_there = arith.cmpi(arith.CmpIPredicate.ult, column, left)
                with mgpu.when(arith.andi(place.is_inside[half], is_there)):
                    row = times(as_long(place.true_points[half]), outputs)
                    address = step_pointer(
                        address_of(out, arith.addi(row, as_long(column))), 8 * eighth + neighbour, element
                    )
                    llvm.store(values[4 * eighth + 2 * half + neighbour], address)
