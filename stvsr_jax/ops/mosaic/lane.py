"""What one lane of a warpgroup does, for kernels in which 64 points lie in the registers of 4 warps.

These functions run inside `inline_mgpu`: each emits instructions. A lane has two points, 8 rows apart, and of every 8
channels two neighbours, as wgmma lays out its accumulator. `values` are a lane's numbers in the order of its registers:
column, point, neighbour.
"""

import numpy as np
from jax.experimental import pallas as pl
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, vector

from stvsr_jax.ops.mosaic import private
from stvsr_jax.ops.mosaic.layout import NARROW, POINTS, WARPS
from stvsr_jax.ops.mosaic.private import mgpu
from stvsr_jax.ops.mosaic.windows import CHUNK


class Place:
    """The two points of this lane, and which of the four lanes of a point it is, as 32-bit numbers.

    Attributes:
      true_points: the points.
      is_inside: whether they exist; the last block may have fewer than 64.
      points: those to read: the last point in the place of one that does not exist.
      quarter: which lane of the point.
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
    """Returns the pointer to an element of a ref, flattened."""
    pointer = mgpu.utils.memref_ptr(ref)
    dynamic = [-(2**31)]
    flags = llvm.GEPNoWrapFlags.none
    return llvm.getelementptr(pointer.type, pointer, [offset], dynamic, element_of(ref), flags)


def step_pointer(pointer, count, element):
    return llvm.getelementptr(pointer.type, pointer, [], [count], element, llvm.GEPNoWrapFlags.none)


def load_numbers(pointer, count, element):
    """Returns neighbouring numbers, loaded at once."""
    both = llvm.load(ir.VectorType.get((count,), element), pointer)
    return [part_of(both, place) for place in range(count)]


def store_numbers(numbers, pointer):
    type_ = ir.VectorType.get((len(numbers),), numbers[0].type)
    llvm.store(vector.from_elements(type_, numbers), pointer)


def part_of(numbers, place):
    return vector.extract(numbers, dynamic_position=[], static_position=ir.DenseI64ArrayAttr.get([place]))


def values_of_acc(acc):
    return [part_of(register, 0) for register in acc.registers.flat]


def as_acc(values, like):
    type_ = ir.VectorType.get((1,), ir.F32Type.get())
    registers = np.array([vector.broadcast(type_, v) for v in values], dtype=object)
    return private.make_fragments(registers.reshape(like.registers.shape), like.layout)


def as_operand(values, dtype):
    pair, short = ir.VectorType.get((2,), ir.F32Type.get()), mgpu.utils.dtype_to_ir_type(dtype)
    pairs = [vector.from_elements(pair, both) for both in zip(values[::2], values[1::2], strict=True)]
    return make_operand([arith.truncf(ir.VectorType.get((2,), short), both) for both in pairs])


def make_operand(registers):
    shape = mgpu.WGMMA_LAYOUT.registers_shape((POINTS, 4 * len(registers)))
    registers = np.array(registers, dtype=object).reshape(shape)
    return private.make_fragments(registers, mgpu.WGMMA_LAYOUT)


def read_narrow(table, place):
    registers = []
    for eighth in range(NARROW // 8):
        for point in place.points:
            column = arith.addi(times(place.quarter, 2), make_constant(8 * eighth))
            address = address_of(table, arith.addi(times(as_long(point), NARROW), as_long(column)))
            registers.append(llvm.load(ir.VectorType.get((2,), element_of(table)), address))
    return make_operand(registers)


def add_rows(acc, table, rows, quarter, weights):
    """Returns acc plus two rows of a table, times their weights if there are any."""
    element, f32 = element_of(table), ir.F32Type.get()
    together = 128 // mgpu.bitwidth(element)
    values = values_of_acc(acc)
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
    return as_acc(values, acc)


def places_of_point(half):
    """Returns which values of [64, 64] belong to a point: twice 8 neighbouring channels; see `layout.reorder`."""
    return [
        16 * block + 4 * j + 2 * half + neighbour
        for block in range(2)
        for j in range(4)
        for neighbour in range(2)
    ]


def transpose(tiles):
    return mgpu.memref_transpose(tiles, (1, 0, 3, 2))


def add_bias(acc, bias, factor=None):
    """Returns acc + bias or factor * acc + bias, as values."""
    f32 = ir.F32Type.get()
    first = address_of(bias, times(arith.remui(lane_of_thread(), make_constant(4)), 2))
    terms = [
        load_numbers(step_pointer(first, 8 * eighth, f32), 2, f32) for eighth in range(acc.shape[1] // 8)
    ]
    terms = [pair[number % 2] for pair in terms for number in range(4)]
    pairs = zip(values_of_acc(acc), terms, strict=True)
    if factor is None:
        return [arith.addf(value, term) for value, term in pairs]
    factor = make_constant(factor, f32)
    return [llvm.intr_fma(value, factor, term) for value, term in pairs]


def approximate(function, value):
    """Returns the sine or cosine with an absolute error of 1e-7 times the argument, below what 16 bits resolve."""
    return llvm.inline_asm(ir.F32Type.get(), [value], f"{function}.approx.f32 $0, $1;", "=f,f")


def add_columns(values, totals, place):
    """Reduces over the 16 points of a warp and adds to the totals, two of the 64 columns in each lane.

    Points lie 4 lanes apart. A butterfly over 16, 8 and 4 lanes halves the columns each time: a lane keeps one half and
    sends the other.
    """
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
    """Returns what this lane keeps plus what the lane at a distance sends; that one keeps the other number."""
    kept, sent = arith.select(is_upper, high, low), arith.select(is_upper, low, high)
    return arith.addf(kept, mgpu.utils.shfl_bfly(sent, distance))


def store_chunk(values, place, out, first):
    """Writes 64 channels of the lane's points that exist, from channel `first` on."""
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


def store_outputs(values, place, out, outputs):
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
