"""The back end of `sine_mlp` for NVIDIA Hopper GPUs (Pallas, Mosaic GPU lowering).

Each multiprocessor fetches all weights once and keeps them in shared memory. A group of threads takes 64 points after
64 points through all layers: their activations never leave its registers, where the matrix unit reads them. While it
is at work for one group, another makes sines.

The backward kernel makes the activations again. It stores them and the gradients before them in 16 bits; the kernels'
gradients are products of these, left to XLA. The sums for the biases' gradients are made where the gradients are.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from stvsr_jax.ops.mosaic import points
from stvsr_jax.ops.mosaic.points import AS_NARROW_TILES, AS_TILES, NARROW, POINTS, WARPS, reorder
from stvsr_jax.ops.mosaic.windows import CHUNK, SHARED_BYTES
from stvsr_jax.ops.sampling import Samples
from stvsr_jax.ops.sine_mlp.inputs import Inputs, is_narrow

# Of threads in a program, that share its registers; the backward kernel keeps more in them.
_GROUPS, _BACKWARD_GROUPS = 3, 2

SUPPORTED_WIDTHS = (
    f"two or more hidden layers whose widths are multiples of {CHUNK}, the first {CHUNK} as those of inputs of more than "
    f"two channels, up to {NARROW} or {CHUNK} outputs, and weights that fit into {SHARED_BYTES} bytes"
)


def is_supported(
    inputs: Sequence[tuple[jax.Array | Samples, jax.Array]], kernels: Sequence[jax.Array], dtype: Any
) -> bool:
    """Return whether the kernels can run these widths in this dtype."""
    rows = [rows for _, rows in inputs if not is_narrow(rows)]
    hidden, outputs = [len(k) for k in kernels], kernels[-1].shape[1]
    sizes = [math.prod(a.shape) for a in (*rows, *kernels[:-1])] + [hidden[-1] * max(outputs, NARROW)]
    sums = 4 * _BACKWARD_GROUPS * WARPS * sum(hidden)
    return (
        jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and len(kernels) > 1
        and hidden[0] == CHUNK
        and all(width % CHUNK == 0 for width in hidden)
        and all(len(r) == CHUNK for r in rows)
        and (outputs <= NARROW or outputs == CHUNK)
        and 2 * sum(sizes) + 4 * (sum(hidden) + CHUNK) + sums <= SHARED_BYTES
    )


def run(
    inputs: Inputs,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array],
    frequency: float,
    dtype: Any,
    out_dtype: Any,
    *,
    sms: int,
    interpret: Any = None,
) -> jax.Array:
    """Run the kernel.

    Args:
      inputs: what the first layer adds up.
      kernels: as of `ops.sine_mlp`.
      biases: the same; in place of the first is that of the inputs.
      frequency: factor of the sines' arguments.
      dtype: of the products' operands.
      out_dtype: of the result.
      sms: of the GPU.
      interpret: Mosaic GPU's `InterpretGPUParams` to run anywhere, very slowly, for tests.

    Returns:
      [..., outputs].
    """
    outputs = kernels[-1].shape[1]
    rows = [rows for _, rows in inputs.pairs]
    weights = _Weights.of(rows, kernels, (inputs.bias, *biases[1:]), frequency, dtype)
    operands, structure = jax.tree.flatten((inputs.terms, [y for y, _ in inputs.pairs]))
    registers = points.make(inputs.count, dtype, interpret, outputs=outputs, frequency=frequency)

    def run_block(layers, refs, point):
        terms, wide = jax.tree.unflatten(structure, refs[:-1])
        _run_block(registers, layers, terms, wide, refs[-1], point)

    out = jax.ShapeDtypeStruct((inputs.count, outputs), out_dtype)
    problem = _Problem("sine_mlp", inputs.count, _GROUPS, sms, interpret)
    return _call(problem, weights, operands, [out], run_block)[0].reshape(*inputs.shape, outputs)


def run_backward(
    x: jax.Array,
    kernels: Sequence[jax.Array],
    biases: Sequence[jax.Array],
    cotangent: jax.Array,
    frequency: float,
    dtype: Any,
    *,
    sms: int,
    interpret: Any = None,
) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Return the gradients of x, kernels and biases from the cotangent [..., outputs] of what `run` returns.

    x are the inputs added up, [..., C]; the rest is as of `run`.
    """
    rows, outputs = x.reshape(-1, x.shape[-1]).astype(jnp.float32), kernels[-1].shape[1]
    cotangent = cotangent.reshape(-1, outputs).astype(jnp.float32)
    above = cotangent.astype(dtype)
    if outputs <= NARROW:
        above = jnp.pad(above, ((0, 0), (0, NARROW - outputs)))
    count, hidden = len(rows), [len(k) for k in kernels]
    weights = _Weights.of([], kernels, biases, frequency, dtype)
    registers = points.make(count, dtype, interpret, outputs=outputs, frequency=frequency)
    kept = [jax.ShapeDtypeStruct((count, width), dtype) for width in hidden]
    # The gradient of x, activations, the gradients before them but the first.
    out_types = [jax.ShapeDtypeStruct(rows.shape, jnp.float32), *kept, *kept[1:]]

    def run_block(layers, refs, point, totals):
        x_ref, above_ref, d_x_ref, *kept_refs = refs
        _Backward(registers, layers, x_ref, kept_refs, totals, point).run(above_ref, d_x_ref)

    problem = _Problem("sine_mlp_backward", count, _BACKWARD_GROUPS, sms, interpret)
    d_x, *kept, totals = _call(
        problem, weights, [rows, above], out_types, run_block, totals=sum(hidden) // CHUNK
    )
    activations, gradients = kept[: len(kernels)], [*kept[len(kernels) :], cotangent.astype(dtype)]
    d_kernels = tuple(
        jnp.matmul(a.T, g, preferred_element_type=jnp.float32)
        for a, g in zip(activations, gradients, strict=True)
    )
    sums = reorder(jnp.sum(totals, axis=(0, 1, 3)), 1).reshape(-1)
    starts = [sum(hidden[:i]) for i in range(len(hidden))]
    d_biases = [sums[start : start + width] for start, width in zip(starts, hidden, strict=True)]
    return d_x.reshape(x.shape), d_kernels, (*d_biases, jnp.sum(cotangent, axis=0))


class _Problem(NamedTuple):
    """What `_call` has to know."""

    name: str
    count: int
    groups: int
    sms: int
    interpret: Any


def _call(problem, weights, operands, out_types, run_block, totals=None):
    """Calls run_block(layers, references to operands and results, first point) for all blocks of points.

    With `totals` it is also given [totals, warps, 64] in shared memory, zeros at first and kept from block to block;
    [programs, groups, totals, warps, 64] is then one more result.
    """
    blocks = pl.cdiv(problem.count, POINTS)
    programs = min(problem.sms, pl.cdiv(blocks, problem.groups))
    shape = (problem.groups, totals, WARPS, CHUNK)
    out_types = list(out_types)
    scratch = [weights.scratch(), plgpu.Barrier(num_arrivals=len(weights.arrays))]
    if totals is not None:
        out_types.append(jax.ShapeDtypeStruct((programs, *shape), jnp.float32))
        scratch.append(plgpu.SMEM(shape, jnp.float32))

    def body(*refs):
        weight_refs, refs = refs[: len(weights.arrays)], refs[len(weights.arrays) :]
        program, thread = lax.axis_index("program"), lax.axis_index("thread")
        first, all_groups = program * problem.groups + thread, programs * problem.groups

        def scope(held, are_there, *sums):
            mine = [ref.at[thread] for ref in sums]
            for ref in mine:
                ref[...] = jnp.zeros(shape[1:], jnp.float32)
                plgpu.commit_smem()
            weights.fetch(weight_refs, held, are_there, thread)
            layers = weights.split(held)

            @pl.loop(0, lax.div(blocks - first + all_groups - 1, all_groups))
            def _(step):
                point = (first + step * all_groups) * POINTS
                run_block(layers, refs[: -1 if mine else None], point, *mine)

            for ref in mine:
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(ref, refs[-1].at[program, thread])
                plgpu.wait_smem_to_gmem(0)

        pl.run_scoped(scope, *scratch, collective_axes="thread")

    call = plgpu.kernel(
        body,
        out_type=tuple(out_types),
        grid=(programs,),
        grid_names=("program",),
        num_threads=problem.groups,
        thread_name="thread",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name=problem.name,
        interpret=problem.interpret,
    )
    return call(*weights.arrays, *operands)


def _run_block(registers, layers, terms, wide, out_ref, point):
    """Takes 64 points through all layers; an activation is a list of chunks of 64 channels."""
    x = registers.start()
    for term in terms:
        x = registers.add_rows(x, term, point)
    if wide:
        chunks = [registers.round(registers.add_rows(registers.start(), y, point)) for y in wide]
        x = registers.multiply(x, chunks, [rows.at[:, :] for rows in layers.rows])
    chunks = [registers.activate(x, layers.bias(0, 0))]
    top = len(layers.kernels) - 1
    for layer in range(1, top):
        chunks = [
            registers.activate(layers.multiply(registers, chunks, layer, j), layers.bias(layer, j))
            for j in range(layers.chunks(layer))
        ]

    # Of the last activation only a chunk at a time.
    def add_chunk(j, out):
        chunk = registers.activate(layers.multiply(registers, chunks, top, j), layers.bias(top, j))
        return registers.multiply_last(out, chunk, layers.last(j))

    out = lax.fori_loop(0, layers.chunks(top), add_chunk, registers.start_outputs())
    registers.store(out, layers.last_bias(), out_ref, point)


class _Backward(NamedTuple):
    """64 points on their way back."""

    registers: points.Registers
    layers: Any
    x_ref: Any
    kept_refs: Any
    totals: Any
    point: Any

    def run(self, above_ref, d_x_ref):
        registers, layers, point = self.registers, self.layers, self.point
        top = len(layers.kernels) - 1
        activations = []
        for layer in range(top):
            activations.append([self._activate(activations, layer, j) for j in range(layers.chunks(layer))])
        if above_ref.shape[1] == NARROW:
            above = registers.read_narrow(above_ref, point)
        else:
            above = registers.round(registers.add_rows(registers.start(), above_ref, point))

        def differentiate_outputs(j):
            self._activate(activations, top, j)
            return registers.multiply_first(registers.start(), above, layers.last(j))

        gradient = differentiate_outputs
        for layer in range(top, 0, -1):
            gradient = self._pass_layer(activations, layer, gradient)
        self._differentiate(activations, 0, 0, gradient(0), lambda g: registers.store_sums(g, d_x_ref, point))

    def _sum(self, activations, layer, j):
        """Returns chunk j of what the layer's sines are made of, without the bias."""
        if layer == 0:
            return self.registers.add_rows(self.registers.start(), self.x_ref, self.point)
        return self.layers.multiply(self.registers, activations[layer - 1], layer, j)

    def _activate(self, activations, layer, j):
        """Returns chunk j of an activation, which it stores."""
        chunk = self.registers.activate(self._sum(activations, layer, j), self.layers.bias(layer, j))
        self.registers.store_operand(chunk, self.kept_refs[layer], self.point, j * CHUNK)
        return chunk

    def _differentiate(self, activations, layer, j, gradient, store):
        """Returns what `store` does of chunk j of the gradient before the sines."""
        sums = self._sum(activations, layer, j)
        gradient = self.registers.differentiate(gradient, sums, self.layers.bias(layer, j))
        totals = self.totals.at[self.layers.first_chunk(layer) + j]
        self.registers.add_columns(gradient, totals, self.point)
        return store(gradient)

    def _pass_layer(self, activations, layer, gradient: Callable[[Any], Any]):
        """Returns the gradient of the activation below, a function of the chunk, from that of this layer's."""
        registers, layers = self.registers, self.layers
        kept_ref = self.kept_refs[len(layers.kernels) + layer - 1]

        def store(j, g):
            g = registers.round(g)
            registers.store_operand(g, kept_ref, self.point, j * CHUNK)
            return g

        def pass_chunk(j):
            return self._differentiate(activations, layer, j, gradient(j), functools.partial(store, j))

        if layers.chunks(layer - 1) == 1:

            def add_chunk(j, total):
                return registers.multiply_transposed(total, [pass_chunk(j)], [layers.part(layer, 0, j)])

            total = lax.fori_loop(0, layers.chunks(layer), add_chunk, registers.start())
            return lambda _: total
        chunks = [pass_chunk(j) for j in range(layers.chunks(layer))]
        return lambda k: registers.multiply_transposed(
            registers.start(), chunks, [layers.part(layer, k, j) for j in range(len(chunks))]
        )


class _Weights(NamedTuple):
    """All weights as arrays in the order of the registers: rows of inputs, kernels, and biases in one, [.., 64]."""

    arrays: list[jax.Array]
    inputs: int  # how many of them are rows of inputs
    widths: tuple[int, ...]  # of all layers but the outputs

    @classmethod
    def of(cls, rows, kernels, biases, frequency, dtype):
        last, last_bias = reorder(kernels[-1], 0), biases[-1]
        outputs = last.shape[1]
        if outputs <= NARROW:
            last = jnp.pad(last, ((0, 0), (0, NARROW - outputs)))
            last_bias = jnp.pad(last_bias, (0, CHUNK - outputs))
        else:
            last, last_bias = reorder(last, 1), reorder(last_bias, 0)
        matrices = [*(reorder(a, 0, 1) for a in (*rows, *kernels[:-1])), last]
        biases = [*(reorder(frequency * b, 0) for b in biases[:-1]), last_bias]
        biases = jnp.concatenate([b.astype(jnp.float32) for b in biases]).reshape(-1, CHUNK)
        arrays = [*(a.astype(dtype) for a in matrices), biases]
        return cls(arrays, len(rows), tuple(len(k) for k in kernels))

    def scratch(self):
        """Return where they are to lie in shared memory."""
        matrices = [
            plgpu.SMEM(a.shape, a.dtype, transforms=AS_NARROW_TILES if a.shape[1] == NARROW else AS_TILES)
            for a in self.arrays[:-1]
        ]
        return [*matrices, plgpu.SMEM(self.arrays[-1].shape, jnp.float32)]

    def fetch(self, refs, held, are_there, thread):
        """Bring them there: the first group of threads for all."""

        def copy_all():
            for source, target in zip(refs, held, strict=True):
                plgpu.copy_gmem_to_smem(source, target, are_there)

        lax.switch(lax.min(thread, 1), [copy_all, lambda: None])
        plgpu.barrier_wait(are_there)

    def split(self, held):
        return _Layers(held[: self.inputs], held[self.inputs : -1], held[-1], self.widths)


class _Layers(NamedTuple):
    """The weights in shared memory. Layer i makes activation i, from the one below and kernel i - 1."""

    rows: list[Any]
    kernels: list[Any]
    biases: Any
    widths: tuple[int, ...]

    def chunks(self, layer):
        return self.widths[layer] // CHUNK

    def first_chunk(self, layer):
        return sum(self.widths[:layer]) // CHUNK

    def bias(self, layer, chunk):
        return self.biases.at[self.first_chunk(layer) + chunk]

    def last_bias(self):
        return self.biases.at[self.first_chunk(len(self.widths))]

    def part(self, layer, k, j):
        """Return the weights from chunk k of the activation below to chunk j of the layer's."""
        return self.kernels[layer - 1].at[pl.ds(k * CHUNK, CHUNK), pl.ds(j * CHUNK, CHUNK)]

    def last(self, chunk):
        return self.kernels[-1].at[pl.ds(chunk * CHUNK, CHUNK), :]

    def multiply(self, registers, below, layer, j):
        """Return chunk j of the product of the activation below with the layer's weights."""
        return registers.multiply(
            registers.start(), below, [self.part(layer, k, j) for k in range(len(below))]
        )
