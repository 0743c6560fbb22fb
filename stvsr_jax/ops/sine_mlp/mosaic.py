"""The SIREN MLP for NVIDIA Hopper GPUs (Pallas, Mosaic GPU lowering).

A CTA fetches all weights once and keeps them in shared memory. A warpgroup takes 64 points after 64 points through all
layers. Activations stay in its registers, where wgmma reads them as operand A. One warpgroup's sines run beside
another's products.

The backward kernel rematerialises the activations. It stores them and the gradients before them in 16 bits; XLA multiplies
these to the gradients w.r.t. the kernels. The gradients w.r.t. the biases are reduced in the kernel.

docs/kernels.md draws both schedules.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from stvsr_jax.ops.mosaic import points
from stvsr_jax.ops.mosaic.layout import NARROW, POINTS, WARPS, reorder
from stvsr_jax.ops.mosaic.windows import CHUNK, SMEM_BYTES
from stvsr_jax.ops.sampling import Samples
from stvsr_jax.ops.sine_mlp.inputs import Inputs, is_narrow
from stvsr_jax.ops.sine_mlp.mosaic_points import Backward, run_forward
from stvsr_jax.ops.sine_mlp.mosaic_weights import Weights

# Of a CTA. They share 64k registers; backward, a warpgroup keeps more in them.
_WARPGROUPS, _BACKWARD_WARPGROUPS = 3, 2

SUPPORTED_WIDTHS = (
    f"two or more hidden layers whose widths are multiples of {CHUNK}, the first {CHUNK} as those of inputs of more than "
    f"two channels, up to {NARROW} or {CHUNK} outputs, and weights that fit into {SMEM_BYTES} bytes"
)


def is_supported(
    inputs: Sequence[tuple[jax.Array | Samples, jax.Array]], kernels: Sequence[jax.Array], dtype: Any
) -> bool:
    """Returns whether the kernels can run these widths in this dtype."""
    rows = [rows for _, rows in inputs if not is_narrow(rows)]
    hidden, outputs = [len(k) for k in kernels], kernels[-1].shape[1]
    sizes = [math.prod(a.shape) for a in (*rows, *kernels[:-1])] + [hidden[-1] * max(outputs, NARROW)]
    totals = 4 * _BACKWARD_WARPGROUPS * WARPS * sum(hidden)
    return (
        jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        and len(kernels) > 1
        and hidden[0] == CHUNK
        and all(width % CHUNK == 0 for width in hidden)
        and all(len(r) == CHUNK for r in rows)
        and (outputs <= NARROW or outputs == CHUNK)
        and 2 * sum(sizes) + 4 * (sum(hidden) + CHUNK) + totals <= SMEM_BYTES
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
    """Runs the kernel.

    Args:
      inputs: of the first layer.
      kernels: as of `ops.sine_mlp`.
      biases: the same; the first is replaced by that of the inputs.
      frequency: factor of the sines' arguments.
      dtype: of the products' operands.
      out_dtype: of the result.
      sms: SMs of the GPU.
      interpret: Mosaic GPU's `InterpretGPUParams`, to run anywhere, very slowly, for tests.

    Returns:
      [..., outputs] in out_dtype.
    """
    outputs = kernels[-1].shape[1]
    rows = [rows for _, rows in inputs.pairs]
    weights = Weights.of(rows, kernels, (inputs.bias, *biases[1:]), frequency, dtype)
    operands, structure = jax.tree.flatten((inputs.terms, [y for y, _ in inputs.pairs]))
    point_ops = points.make(inputs.count, dtype, interpret, outputs=outputs, frequency=frequency)

    def run_block(layers, refs, point):
        terms, wide = jax.tree.unflatten(structure, refs[:-1])
        run_forward(point_ops, layers, terms, wide, refs[-1], point)

    out = jax.ShapeDtypeStruct((inputs.count, outputs), out_dtype)
    problem = _Problem("sine_mlp", inputs.count, _WARPGROUPS, sms, interpret)
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
    """Returns the gradients w.r.t. x, kernels and biases.

    Args:
      x: the inputs added up, [..., C].
      cotangent: of what `run` returns, [..., outputs].
      kernels, biases, frequency, dtype, sms, interpret: as of `run`.
    """
    rows, outputs = x.reshape(-1, x.shape[-1]).astype(jnp.float32), kernels[-1].shape[1]
    cotangent = cotangent.reshape(-1, outputs).astype(jnp.float32)
    above = cotangent.astype(dtype)
    if outputs <= NARROW:
        above = jnp.pad(above, ((0, 0), (0, NARROW - outputs)))
    count, hidden = len(rows), [len(k) for k in kernels]
    weights = Weights.of([], kernels, biases, frequency, dtype)
    point_ops = points.make(count, dtype, interpret, outputs=outputs, frequency=frequency)
    kept = [jax.ShapeDtypeStruct((count, width), dtype) for width in hidden]
    # The gradient w.r.t. x, the activations, the gradients before them but the first.
    out_types = [jax.ShapeDtypeStruct(rows.shape, jnp.float32), *kept, *kept[1:]]

    def run_block(layers, refs, point, totals):
        x_ref, above_ref, d_x_ref, *kept_refs = refs
        Backward(point_ops, layers, x_ref, kept_refs, totals, point).run(above_ref, d_x_ref)

    problem = _Problem("sine_mlp_backward", count, _BACKWARD_WARPGROUPS, sms, interpret)
    d_x, *kept, totals = _call(
        problem, weights, [rows, above], out_types, run_block, totals=sum(hidden) // CHUNK
    )
    activations, gradients = kept[: len(kernels)], [*kept[len(kernels) :], cotangent.astype(dtype)]
    d_kernels = tuple(
        jnp.matmul(a.T, g, preferred_element_type=jnp.float32)
        for a, g in zip(activations, gradients, strict=True)
    )
    totals = reorder(jnp.sum(totals, axis=(0, 1, 3)), 1).reshape(-1)
    starts = [sum(hidden[:i]) for i in range(len(hidden))]
    d_biases = [totals[start : start + width] for start, width in zip(starts, hidden, strict=True)]
    return d_x.reshape(x.shape), d_kernels, (*d_biases, jnp.sum(cotangent, axis=0))


class _Problem(NamedTuple):
    """What is static in a call: the kernel's name, points P, warpgroups of a CTA."""

    name: str
    count: int
    warpgroups: int
    sms: int
    interpret: Any


def _call(problem, weights, operands, out_types, run_block, totals=None):
    """Calls run_block(layers, refs of operands and results, first point) for all blocks of 64 points.

    With `totals` it is also given [totals, warps, 64] in shared memory: zeros that are kept from block to block. They are
    one more result, [CTAs, warpgroups, totals, warps, 64].
    """
    blocks = pl.cdiv(problem.count, POINTS)
    ctas = min(problem.sms, pl.cdiv(blocks, problem.warpgroups))
    shape = (problem.warpgroups, totals, WARPS, CHUNK)
    out_types = list(out_types)
    scratch = [weights.scratch(), plgpu.Barrier(num_arrivals=len(weights.arrays))]
    if totals is not None:
        out_types.append(jax.ShapeDtypeStruct((ctas, *shape), jnp.float32))
        scratch.append(plgpu.SMEM(shape, jnp.float32))

    def body(*refs):
        weight_refs, refs = refs[: len(weights.arrays)], refs[len(weights.arrays) :]
        cta, wg = lax.axis_index("cta"), lax.axis_index("wg")
        # One CTA on each SM takes blocks until all are done, so its weights are fetched once. No warpgroup waits for another
        # after that: each gathers, multiplies and stores blocks of its own.
        first, all_warpgroups = cta * problem.warpgroups + wg, ctas * problem.warpgroups

        def scope(held, full, *totals_refs):
            mine = [ref.at[wg] for ref in totals_refs]
            for ref in mine:
                ref[...] = jnp.zeros(shape[1:], jnp.float32)
                plgpu.commit_smem()  # all threads have written before any goes on
            weights.fetch(weight_refs, held, full, wg)
            layers = weights.split(held)

            @pl.loop(0, lax.div(blocks - first + all_warpgroups - 1, all_warpgroups))
            def _(step):
                point = (first + step * all_warpgroups) * POINTS
                run_block(layers, refs[: -1 if mine else None], point, *mine)

            for ref in mine:
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(ref, refs[-1].at[cta, wg])
                plgpu.wait_smem_to_gmem(0)

        pl.run_scoped(scope, *scratch, collective_axes="wg")

    call = plgpu.kernel(
        body,
        out_type=tuple(out_types),
        grid=(ctas,),
        grid_names=("cta",),
        num_threads=problem.warpgroups,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name=problem.name,
        interpret=problem.interpret,
    )
    return call(*weights.arrays, *operands)
