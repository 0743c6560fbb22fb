"""The back end of 3x3 and 1x1 convolutions for NVIDIA Hopper GPUs (Pallas, Mosaic GPU lowering).

64 channels make narrow matrix products, for which cuDNN has no fast kernel, and what comes after a convolution (bias,
sum, rectifier) and before it (joining of its inputs) would go through memory. Here a block of 128 threads makes
`rows` lines of 16 output pixels as one matrix product, [pixels, 64 channels] @ [64 channels, outputs] for each tap, and
adds, rectifies and rounds the sums where they are, in registers:

* All weights of the block's outputs stay in shared memory.
* A line of 16 pixels is two of the tiles that the matrix unit reads, so a shift by a line is one of the address. For
  the shifts along a line the window is fetched three times; what is outside of the image is filled with zeros.
* Two blocks take turns: one multiplies while the other is at its sums. A third fetches ahead for both.
* What a program does again and again are loops, not steps written out: the networks need forty such kernels, and each
  has to be lowered and compiled.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

_COLUMNS = 16  # output pixels of a line of a block's window
_CHUNK = 64  # channels of a product; 128 bytes, the widest pattern in which shared memory is interleaved
_TURNS = 2  # blocks of threads that take turns
_SHARED_BYTES = 227 * 1024 - 1024  # of one multiprocessor, without the barriers


class Plan(NamedTuple):
    """How the work is divided.

    Attributes:
      rows: lines of a window.
      outputs: channels of a block.
      stages: windows in shared memory for each of the blocks that take turns.
    """

    rows: int
    outputs: int
    stages: int


def make_plan(size: int, chunks: int, features: int, pixels: int, multiprocessors: int) -> Plan | None:
    """Returns how to convolve with a kernel of so many lines images of so many pixels and times 64 channels.

    None if the weights need too much memory.
    """
    if features > _CHUNK:
        plans = (Plan(4, 2 * _CHUNK, 2), Plan(4, _CHUNK, 2))
    elif pixels < 8 * _COLUMNS * multiprocessors:  # smaller windows, for all to have one
        plans = (Plan(4, _CHUNK, 3), Plan(4, _CHUNK, 2))
    else:
        plans = (Plan(8, _CHUNK, 3), Plan(4, _CHUNK, 2))
    for plan in plans:
        shared = chunks * size**2 * _CHUNK * plan.outputs
        shared += _TURNS * plan.stages * (plan.rows + size - 1) * _COLUMNS * _CHUNK
        shared += _TURNS * plan.rows * _COLUMNS * plan.outputs
        if 2 * shared <= _SHARED_BYTES:
            return plan
    return None


def is_supported(inputs: tuple[jax.Array, ...], kernel: jax.Array, stride: int, padding: int) -> bool:
    """Returns whether a Hopper GPU can run the kernel for these arguments."""
    features = kernel.shape[-1]
    return (
        jax.__version_info__ >= (0, 11)  # whose Mosaic GPU this is written for
        and kernel.dtype in (jnp.bfloat16, jnp.float16)
        and all(x.dtype == kernel.dtype and x.shape[-1] % _CHUNK == 0 for x in inputs)
        and (*kernel.shape[:2], stride, padding) in ((3, 3, 1, 1), (1, 1, 1, 0))
        and features % 8 == 0
        and features > 8
        and make_plan(kernel.shape[0], kernel.shape[2] // _CHUNK, features, 0, 1) is not None
    )


def run(
    inputs: tuple[jax.Array, ...],
    kernel: jax.Array,
    bias: jax.Array | None,
    addend: jax.Array | None,
    *,
    slope: float | None,
    multiprocessors: int,
    interpret: Any = None,
) -> jax.Array:
    """Runs the kernel: rectify(conv(inputs) + bias + addend), see `ops.conv2d`.

    Args:
      inputs: [B, H, W, C_i] each.
      kernel: [k, k, sum of C_i, C'], k = 3 or 1.
      bias: [C'] or None.
      addend: [B, H, W, C'] or None.
      slope: of the rectifier where its input is negative, None for no rectifier.
      multiprocessors: of the GPU.
      interpret: Mosaic GPU's `InterpretGPUParams` to run anywhere, very slowly, for tests.

    Returns:
      [B, H, W, C'] in the dtype of the kernel.
    """
    batch, height, width, _ = inputs[0].shape
    size, features, dtype = kernel.shape[0], kernel.shape[-1], kernel.dtype
    chunks = [x.shape[-1] // _CHUNK for x in inputs]
    firsts = [sum(chunks[:number]) for number in range(len(chunks))]
    plan = make_plan(size, sum(chunks), features, batch * height * width, multiprocessors)
    rows, outputs, stages = plan
    blocks = pl.cdiv(features, outputs)
    across, down = pl.cdiv(width, _COLUMNS), pl.cdiv(height, rows)
    windows = batch * down * across
    programs = min(max(multiprocessors // blocks, 1), windows)
    halves = outputs // _CHUNK
    fetches = size * sum(chunks)
    margin = 0
    if interpret is not None:  # which does not know of places before the beginning
        margin = 1
        inputs = tuple(jnp.pad(x, ((0, 0), (margin, 0), (margin, 0), (0, 0))) for x in inputs)

    def body(*refs):
        x_refs, (kernel_ref, bias_ref, *addend_ref, out_ref) = refs[: len(inputs)], refs[len(inputs) :]
        program, block, thread = (lax.axis_index(name) for name in ("program", "block", "thread"))

        def place(turn, step):
            """Returns where the window of this turn's block in its step begins: image, y, x."""
            window = program + (_TURNS * step + turn) * programs
            line = lax.div(window, across)
            return lax.div(line, down), lax.rem(line, down) * rows, lax.rem(window, across) * _COLUMNS

        def scope(weights, fetched, results, weights_there, is_there, is_free, addend_there):
            (fetched_lines, fetched_tiles), (result_lines, result_tiles) = fetched, results

            def steps(turn):
                """Returns how many windows the turn's block makes."""
                mine = lax.div(windows - program + programs - 1, programs)
                return lax.div(mine - turn + _TURNS - 1, _TURNS)

            def fetch_weights(tap):
                number, line = lax.div(tap, size), lax.rem(tap, size)
                plgpu.copy_gmem_to_smem(
                    kernel_ref.at[
                        line,
                        lax.rem(number, size),
                        pl.ds(lax.div(number, size) * _CHUNK, _CHUNK),
                        pl.ds(block * outputs, outputs),
                    ],
                    weights.at[tap],
                    weights_there,
                )

            def fetch_window(turn, step, number):
                image, y, x = place(turn, step)
                stage = turn * stages + lax.rem(step * fetches + number, stages)
                chunk, shift = lax.div(number, size), lax.rem(number, size)

                def fetch_from(x_ref, first):
                    plgpu.copy_gmem_to_smem(
                        x_ref.at[
                            image,
                            pl.ds(y - size // 2 + margin, rows + size - 1),
                            pl.ds(x + shift - size // 2 + margin, _COLUMNS),
                            pl.ds((chunk - first) * _CHUNK, _CHUNK),
                        ],
                        fetched_lines.at[stage],
                        is_there.at[stage],
                    )

                plgpu.barrier_wait(is_free.at[stage])
                copies = [
                    functools.partial(fetch_from, *source) for source in zip(x_refs, firsts, strict=True)
                ]
                if len(copies) == 1:
                    copies[0]()
                else:
                    lax.switch(sum(lax.min(lax.div(chunk, first), 1) for first in firsts[1:]), copies)

            def fetch():
                plgpu.set_max_registers(40, action="decrease")
                pl.loop(0, size * fetches)(fetch_weights)

                # The second turn is half a window behind the first.
                @pl.loop(0, (steps(0) + 1) * fetches)
                def _(count):
                    late = lax.max(count - fetches // 2, 0)
                    for turn, position in ((0, count), (1, late)):
                        step = lax.div(position, fetches)
                        function = functools.partial(fetch_window, turn, step, lax.rem(position, fetches))
                        left = steps(turn) - step
                        # The second has begun once its position moves.
                        _when_positive(
                            left if turn == 0 else lax.min(left, count - fetches // 2 + 1), function
                        )

            def multiply():
                turn = thread
                plgpu.set_max_registers(232, action="increase")
                for stage in range(stages):
                    plgpu.barrier_arrive(is_free.at[turn * stages + stage])
                pixels = rows * _COLUMNS
                biases = plgpu.load(
                    bias_ref.at[pl.ds(block * outputs, outputs)],
                    layout=plgpu.Layout.WGMMA.reduce(0),
                    optimized=False,
                )

                plgpu.barrier_wait(weights_there)

                @pl.loop(0, steps(turn))
                def _(step):
                    image, y, x = place(turn, step)

                    def at(ref, half):
                        return ref.at[
                            image,
                            pl.ds(y, rows),
                            pl.ds(x, _COLUMNS),
                            pl.ds(block * outputs + half * _CHUNK, _CHUNK),
                        ]

                    if addend_ref:
                        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                        for half in range(halves):
                            plgpu.copy_gmem_to_smem(
                                at(addend_ref[0], half),
                                result_lines.at[turn * halves + half],
                                addend_there.at[turn],
                            )

                    def stage_of(number):
                        return turn * stages + lax.rem(step * fetches + number, stages)

                    def sum_products(sums):
                        @pl.loop(0, fetches)
                        def _(number):
                            stage = stage_of(number)
                            plgpu.barrier_wait(is_there.at[stage])
                            _show_as_tiles(fetched, stage, interpret)
                            for line in range(size):
                                plgpu.wgmma(
                                    sums,
                                    fetched_tiles.at[stage, pl.ds(line * _COLUMNS, pixels)],
                                    weights.at[size * number + line],
                                )
                            plgpu.wgmma_wait(size)  # for all but those of this stage
                            _when_positive(
                                number, lambda: plgpu.barrier_arrive(is_free.at[stage_of(number - 1)])
                            )

                        return sums[...]

                    result = pl.run_scoped(sum_products, plgpu.ACC((pixels, outputs), jnp.float32))
                    plgpu.barrier_arrive(is_free.at[stage_of(fetches - 1)])
                    result += lax.broadcast_in_dim(biases.astype(jnp.float32), result.shape, [1])
                    if addend_ref:
                        plgpu.barrier_wait(addend_there.at[turn])
                    else:
                        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    for half in range(halves):
                        place_of_half = turn * halves + half
                        part = result[:, half * _CHUNK : (half + 1) * _CHUNK] if halves > 1 else result
                        if addend_ref:
                            _show_as_tiles(results, place_of_half, interpret)
                            part += result_tiles[place_of_half].astype(jnp.float32)
                        if slope is not None:
                            part = jnp.maximum(part, slope * part if slope else 0.0)
                        result_tiles[place_of_half] = part.astype(dtype)
                        _show_as_lines(results, place_of_half, interpret)
                    plgpu.commit_smem()
                    for half in range(halves):
                        plgpu.copy_smem_to_gmem(result_lines.at[turn * halves + half], at(out_ref, half))

                plgpu.wait_smem_to_gmem(0)

            lax.switch(lax.div(thread, _TURNS), [multiply, fetch])

        pl.run_scoped(
            scope,
            plgpu.SMEM((size * fetches, _CHUNK, outputs), dtype, transforms=_TILES),
            _allocate_windows(_TURNS * stages, rows + size - 1, dtype),
            _allocate_windows(_TURNS * halves, rows, dtype),
            plgpu.Barrier(num_arrivals=size * fetches),
            plgpu.Barrier(num_barriers=_TURNS * stages),
            plgpu.Barrier(num_barriers=_TURNS * stages),
            plgpu.Barrier(num_arrivals=halves, num_barriers=_TURNS),
            collective_axes="thread",
        )

    call = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((batch, height, width, features), dtype),
        grid=(blocks, programs),
        grid_names=("block", "program"),
        num_threads=_TURNS + 1,
        thread_name="thread",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name=f"conv{size}x{size}",
        interpret=interpret,
    )
    bias = jnp.zeros((features,), dtype) if bias is None else bias
    missing = blocks * outputs - features
    kernel, bias = (jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, missing)]) for a in (kernel, bias))
    return call(*inputs, kernel, bias, *([] if addend is None else [addend]))


def _when_positive(number, function):
    """Calls a function if an integer is positive; `pl.when` of a comparison takes twice as long to lower."""

    def nothing():
        pass

    lax.switch(number, [nothing, function])


# 8 pixels of 64 channels, in the same order and interleaved in the same way, are one tile of the matrix unit.
_INTERLEAVED = plgpu.SwizzleTransform(128)
_LINES = (_INTERLEAVED,)
_TILES = (plgpu.TilingTransform((8, _CHUNK)), _INTERLEAVED)


def _allocate_windows(count, rows, dtype):
    """The same memory twice: as lines, which are copied, and as tiles, which are multiplied."""
    return plgpu.RefUnion(
        plgpu.SMEM((count, rows, _COLUMNS, _CHUNK), dtype, transforms=_LINES),
        plgpu.SMEM((count, rows * _COLUMNS, _CHUNK), dtype, transforms=_TILES),
    )


def _show_as_tiles(views, number, interpret):
    """To be called when a window was written as lines: interpreted, each view has memory of its own."""
    if interpret is not None:
        lines, tiles = views
        tiles[number] = lines[number].reshape(tiles.shape[1:])


def _show_as_lines(views, number, interpret):
    """To be called when a window was written as tiles."""
    if interpret is not None:
        lines, tiles = views
        lines[number] = tiles[number].reshape(lines.shape[1:])
