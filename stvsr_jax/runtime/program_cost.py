"""What a program compiled for a TPU moves and multiplies, counted in its text (`compiled.as_text()`).

XLA's own `cost_analysis` counts the body of a loop once, and what stays in VMEM as memory traffic. Here a loop counts as
often as it runs, and traffic is that of the HBM: each operation reads its operands and writes its results, at the size
that their tiled layout takes. Of a conditional the branch with less traffic counts, and of a loop whose length depends on
data one turn: both stand where a formulation has a slow way for rare inputs.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_ITEM_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f64": 8, "c64": 8, "token": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# They name or pass on what others made.
_FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "optimization-barrier",
)  # fmt: skip
# A Pallas kernel says what it does.
_ESTIMATE = re.compile(r'"cost_estimate":\s*\{([^}]*)\}')
_ON_CHIP = re.compile(r"S\([13]\)")  # VMEM; of a v4, CMEM, 128 MB beside it
_LANES = 128  # inputs and outputs of a matrix unit


@dataclasses.dataclass(frozen=True)
class Cost:
    """Work of a device.

    Attributes:
      hbm_bytes: read and written.
      vmem_bytes: the same of what XLA keeps on the chip between operations, in VMEM or in CMEM.
      flops: of convolutions and matrix products, two per multiply-add.
      padded_flops: the same with channels rounded up to 128, as the matrix units see them.
      collective_bytes: kind of collective -> bytes of its results.
      collective_counts: kind -> how many.
    """

    hbm_bytes: float = 0.0
    vmem_bytes: float = 0.0
    flops: float = 0.0
    padded_flops: float = 0.0
    collective_bytes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    collective_counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def __add__(self, other: "Cost") -> "Cost":
        """The work of both."""
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)))

    def times(self, count: int) -> "Cost":
        """The work of so many turns."""
        numbers = [getattr(self, f.name) for f in dataclasses.fields(self)[:4]]
        counters = [self.collective_bytes, self.collective_counts]
        multiplied = [collections.Counter({k: count * v for k, v in c.items()}) for c in counters]
        return Cost(*(count * n for n in numbers), *multiplied)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool


def count(text: str) -> Cost:
    """Counts the work of a compiled program of one device.

    Args:
      text: of the program, from `compiled.as_text()`.

    Returns:
      Its cost.
    """
    return _Program(text).cost(None)


def list_operations(text: str) -> list[tuple[str, float, int]]:
    """Returns (kind or kernel, HBM bytes, how often it runs), those with most traffic first."""
    found, times = collections.Counter(), collections.Counter()
    for name, cost, turns in _Program(text).walk(None, 1):
        found[name] += turns * cost.hbm_bytes
        times[name] += turns
    return [(name, size, times[name]) for name, size in found.most_common()]


class _Program:
    def __init__(self, text):
        self._computations = _parse(text)

    @functools.cache  # noqa: B019 (lives as long as one count)
    def cost(self, computation):
        return sum((cost.times(turns) for _, cost, turns in self.walk(computation, 1)), Cost())

    def walk(self, computation, turns) -> Iterator[tuple[str, Cost, int]]:
        """Yields (name, cost of one run, runs) of all operations below a computation."""
        instructions = self._computations[computation]
        for i in instructions.values():
            called = dict(re.findall(r"(condition|body|to_apply|calls)=%([\w.\-]+)", i.rest))
            if i.opcode == "while":
                yield from self.walk(called["body"], turns * self._trip_count(called["condition"]))
            elif i.opcode == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
                names = (
                    branches[1].split(",")
                    if branches
                    else re.findall(r"(?:true|false)_computation=(%[\w.\-]+)", i.rest)
                )
                names = [name.strip().lstrip("%") for name in names]
                yield from self.walk(min(names, key=lambda name: self.cost(name).hbm_bytes), turns)
            elif i.opcode == "call":
                yield from self.walk(called["to_apply"], turns)
            elif i.opcode not in _FREE and not i.opcode.endswith("-done"):
                yield self._name(i), self._cost_of(i, instructions, called.get("calls")), turns

    def _name(self, i):
        kernel = re.match(r"([a-z_]+)", i.name)[1] if "tpu_custom_call" in i.rest else None
        scope = re.search(r'op_name="([^"]*)"', i.rest)
        return f"{kernel or i.opcode} {'/'.join(scope[1].split('/')[-3:]) if scope else ''}".strip()

    def _trip_count(self, condition):
        instructions = self._computations[condition].values()
        constants = [
            int(i.operands[0]) for i in instructions if i.opcode == "constant" and i.type.startswith("s32[]")
        ]
        return constants[0] if len(constants) == 1 else 1

    def _cost_of(self, i, instructions, calls):
        operands = [instructions[name].type for name in dict.fromkeys(i.operands) if name in instructions]
        sizes = self._traffic(i, operands, calls)
        hbm, vmem = (sum(size for size, in_vmem in sizes if in_vmem == kind) for kind in (False, True))
        kind = self._collective(i, calls)
        moved = collections.Counter({kind: _result_size(i)} if kind else {})
        ran = collections.Counter({kind: 1} if kind else {})
        if estimate := _estimate(i, "bytes_accessed"):
            share = estimate / max(hbm + vmem, 1.0)
            hbm, vmem = share * hbm, share * vmem
        return Cost(hbm, vmem, *self._flops(i, instructions, calls), moved, ran)

    def _collective(self, i, calls):
        """Returns the kind of a collective, None for another operation."""
        if i.opcode != "fusion":
            return next((c for c in _COLLECTIVES if i.opcode in (c, c + "-start")), None)
        if calls.startswith("all-reduce-scatter"):  # all-reduce and slice, run as one ring
            return "reduce-scatter"
        if i.name.startswith("async-collective-start"):  # fusions that go on with it, or end it, hold it too
            return next(
                (x.opcode for x in self._computations[calls].values() if x.opcode in _COLLECTIVES), None
            )
        return None

    def _traffic(self, i, operands, calls):
        """Returns (bytes, whether in VMEM) of what an operation reads and writes."""
        written = _parts(i.type)
        if i.opcode == "custom-call" and "tpu_custom_call" not in i.rest:
            return []  # names buffers
        if i.opcode in ("copy-start", "slice-start"):  # its type is (source or result, ...)
            sides = _parts(i.type)[:2]
            least = min(size for size, _ in sides)
            return [(least, in_vmem) for _, in_vmem in sides]
        if i.opcode in ("dynamic-slice", "slice", "gather"):
            return [(size, _parts(operands[0])[0][1]) for size, _ in written] + written
        if i.opcode == "dynamic-update-slice":
            return 2 * _parts(operands[1])
        if i.opcode == "scatter":
            updates = _parts(operands[-1])
            return 3 * updates + _parts(operands[-2])
        read = [part for type in operands for part in _parts(type)]
        if i.opcode != "fusion":
            return read + written
        inner = self._computations[calls]
        read = [self._read(calls, number) for number in range(len(i.operands))]
        root = next(x for x in inner.values() if x.is_root)
        if root.opcode == "tuple":
            return read + [part for name in root.operands for part in _written(inner, name)]
        is_update = _updater(inner, root.name).opcode == "dynamic-update-slice"
        return read + (_written(inner, root.name) if is_update else written)

    def _read(self, calls, number):
        """Returns (bytes, whether in VMEM) of what a fusion reads of an operand."""
        inner = self._computations[calls]
        parameter = next(
            x for x in inner.values() if x.opcode == "parameter" and int(x.operands[0]) == number
        )
        size, in_vmem = _parts(parameter.type)[0] if _parts(parameter.type) else (0, False)
        return min(size, self._used(inner, parameter.name)), in_vmem

    def _used(self, inner, name):
        """Returns the bytes of the slices that a fusion takes of an array, infinity for another use."""
        users = [x for x in inner.values() if name in x.operands]
        total = 0.0 if users else math.inf
        for x in users:
            if x.opcode in ("dynamic-slice", "slice", "gather"):
                total += _size(x.type)
            elif x.opcode == "bitcast":
                total += self._used(inner, x.name)
            elif x.opcode == "fusion":
                numbers = [n for n, operand in enumerate(x.operands) if operand == name]
                total += sum(self._read(_called(x), n)[0] for n in numbers)
            elif not (
                x.opcode == "dynamic-update-slice" and x.operands[0] == name
            ):  # what is updated is not read
                total = math.inf
        return total

    def _flops(self, i, instructions, calls):
        """Returns the FLOPs of the products in an operation, as they are and with channels rounded up."""
        if estimate := _estimate(i, "flops"):
            return estimate, estimate
        if i.opcode == "fusion":
            inner = self._computations[calls]
            each = [self._flops(x, inner, _called(x)) for x in inner.values()]
            return sum(a for a, _ in each), sum(b for _, b in each)
        if i.opcode == "convolution":
            labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest).groups()
            arrays = [instructions[name].type for name in i.operands[:2]] + [i.type]
            images, kernel, result = (
                dict(zip(of, _dimensions(type), strict=True)) for of, type in zip(labels, arrays, strict=True)
            )
            window = dict(re.findall(r"(\w+)=([\dx_\-]+)", re.search(r"window=\{([^}]*)\}|$", i.rest)[0]))
            pairs = [
                _count_pairs(
                    images[n], kernel[n], result[n], {k: v.split("x")[int(n)] for k, v in window.items()}
                )
                for n in sorted(label for label in kernel if label.isdigit())
            ]
            points, reads, makes = result["b"] * math.prod(pairs), kernel["i"], result["f"]
            return 2.0 * points * reads * makes, 2.0 * points * _round_up(reads) * _round_up(makes)
        if i.opcode == "dot":
            left = _dimensions(instructions[i.operands[0]].type)
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)[1]
            depth = math.prod(left[int(a)] for a in axes.split(",") if a)
            shape = _dimensions(i.type)
            points, makes = math.prod(shape[:-1]), shape[-1] if shape else 1
            return 2.0 * points * depth * makes, 2.0 * points * _round_up(depth) * _round_up(makes)
        return 0.0, 0.0


def _count_pairs(size, taps, out_size, window):
    """Returns how many products of an input and a tap one axis of a convolution takes: none with padding."""
    stride, spread, dilation = (int(window.get(k, 1)) for k in ("stride", "lhs_dilate", "rhs_dilate"))
    start = -int(window.get("pad", "0_0").split("_")[0])
    pairs = 0
    for tap in range(taps):
        places = range(start + tap * dilation, start + tap * dilation + out_size * stride, stride)
        pairs += sum(1 for place in places if place % spread == 0 and 0 <= place < size * spread)
    return pairs


def _written(instructions, name):
    """Returns (bytes, whether in VMEM) of what a result of a fusion writes: of an array updated in place, the update."""
    parts, i = _parts(instructions[name].type), _updater(instructions, name)
    if i.opcode != "dynamic-update-slice":
        return parts
    return [(_size(instructions[i.operands[1]].type), parts[0][1])]


def _updater(instructions, name):
    """Returns the instruction that makes a result, past those that only rename it."""
    while instructions[name].opcode == "bitcast":
        name = instructions[name].operands[0]
    return instructions[name]


def _estimate(i, name):
    """Returns what a kernel says that it moves or multiplies, None for another operation."""
    found = _ESTIMATE.search(i.rest)
    return float(re.search(rf'"{name}":"?(\d+)', found[1])[1]) if found else None


def _called(i):
    found = re.search(r"calls=%([\w.\-]+)", i.rest)
    return found[1] if found else None


def _round_up(channels):
    return -(-channels // _LANES) * _LANES


def _parse(text):
    """Returns name -> instructions by name; None is the entry."""
    computations, current = {}, None
    text = re.sub(r'\n(?=["}].)', "", text)  # what a kernel in a fusion says takes several lines
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%([\w.\-]+) \(.*\{$", line)
        if head:
            current = computations[None if head[1] else head[2]] = {}
        elif current is not None and (found := _INSTRUCTION.match(line)):
            root, name, type, opcode, rest = found.groups()
            arguments = _until_closed(rest)
            names = tuple(re.findall(r"%([\w.\-]+)", arguments))
            operands = names or tuple(a.strip() for a in arguments.split(",") if a.strip())
            current[name] = _Instruction(name, type, opcode, operands, rest, bool(root))
    return computations


def _until_closed(rest):
    depth = 1
    for place, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return rest[:place]
    return rest


def _dimensions(type):
    return [int(n) for n in _SHAPE.search(type)[2].split(",") if n]


def _size(type):
    return sum(size for size, _ in _parts(type))


def _result_size(i):
    """Returns the bytes of the result; what starts an asynchronous operation returns (operand, result, ..)."""
    parts = _parts(i.type)
    is_started = i.type.startswith("(") and "-start" in i.name and "all-reduce" not in i.name
    return parts[1][0] if is_started else sum(size for size, _ in parts)


def _parts(type):
    """Returns (bytes with the padding of the layout, whether in VMEM) of an array or of each of a tuple."""
    parts = []
    for kind, shape, layout in _SHAPE.findall(type):
        dimensions = [int(n) for n in shape.split(",") if n]
        order = re.match(r"[\d,]+", layout)
        if order:
            dimensions = [dimensions[int(axis)] for axis in order[0].split(",")]  # minor first
        tile = re.search(r"T\(([\d,]+)\)", layout)
        for axis, n in enumerate(reversed(tile[1].split(",")) if tile else []):
            if axis < len(dimensions):
                dimensions[axis] = -(-dimensions[axis] // int(n)) * int(n)
        digits = re.search(r"\d+$", kind)
        item = _ITEM_BYTES.get(kind, int(digits[0]) / 8 if digits else 0)
        parts.append((math.prod(dimensions) * item, bool(_ON_CHIP.search(layout))))
    return parts
