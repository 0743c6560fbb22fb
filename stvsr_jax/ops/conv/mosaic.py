"""The back end of 3x3 and 1x1 convolutions for NVIDIA Hopper GPUs (Pallas, Mosaic GPU lowering).

64 channels make narrow matrix products, for which cuDNN has no fast kernel, and what comes after a convolution (bias,
sum, rectifier) and before it (joining of its inputs) would go through memory. Here a block of 128 threads makes a
window of 8 x 8 output pixels as one matrix product, [pixels, 64 channels] @ [64 channels, outputs] for each tap, and
adds, rectifies and rounds the sums where they are, in registers:

* All weights of the block's outputs stay in shared memory.
* A window is fetched once, with its margin. A line of 8 pixels of 64 channels is a tile of the matrix unit, wherever
  it begins: a shift by a tap is one of the address.
* Two or three blocks take turns: one multiplies while another is at its sums. One more fetches ahead for all.
* Several convolutions of one shape, each with weights of its own, are one call: small ones fill the GPU together.
* What a program does again and again are loops, not steps written out: the networks need forty such kernels, and each
  has to be lowered and compiled.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu

from stvsr_jax.ops.mosaic.windows import (
    AS_LINES,
    CHUNK,
    COLUMNS,
    INTERLEAVED,
    SHARED_BYTES,
    SUMS,
    add_product,
    describe_sums,
    make_start,
    window_shape,
)

_LINES = 8  # of a window
_PIXELS = _LINES * COLUMNS


class Plan(NamedTuple):
    """How the work is divided.

    Attributes:
      turns: blocks of threads that take turns.
      stages: windows in shared memory for each of them.
    """

    turns: int
    stages: int


def make_plan(size: int, chunks: int, has_addend: bool = False) -> Plan | None:
    """Returns how to convolve with a kernel of so many lines and times 64 channels; None if it needs too much memory."""
    for plan in (Plan(3, 3), Plan(3, 2), Plan(2, 2), Plan(2, 1)):
        shared = chunks * size**2 * CHUNK * CHUNK
        shared += plan.turns * plan.stages * math.prod(window_shape(_LINES, size))
        shared += plan.turns * _PIXELS * CHUNK * (2 if has_addend else 1)
        if 2 * shared <= SHARED_BYTES:
            return plan
    return None


def is_supported(inputs: tuple[jax.Array, ...], kernel: jax.Array, stride: int, padding: int) -> bool:
    """Returns whether a Hopper GPU can run the kernel for these arguments."""
    *channels, last = (x.shape[-1] for x in inputs)
    return (
        kernel.dtype in (jnp.bfloat16, jnp.float16)
        and all(x.dtype == kernel.dtype for x in inputs)
        and all(c % CHUNK == 0 for c in channels)
        and last % 8 == 0
        and last >= CHUNK
        and (*kernel.shape[-4:-2], stride, padding) in ((3, 3, 1, 1), (1, 1, 1, 0))
    )


def run(
    inputs: tuple[jax.Array, ...],
    kernel: jax.Array,
    bias: jax.Array | None,
    addend: jax.Array | None,
    *,
    slope: float | None,
    sms: int,
    shuffles: bool = False,
    plan: Plan | None = None,
    interpret: Any = None,
) -> jax.Array:
    """Runs the kernel: rectify(conv(inputs) + bias + addend) for each of S sets, see `ops.conv2d`.

    Args:
      inputs: [G_i, B, H, W, C_i] each, see `is_supported`; set s reads the part s % G_i. So many channels that their
        weights do not fit into shared memory go through the kernel in parts, each of which adds to the one before.
      kernel: [S, k, k, sum of C_i, C'], k = 3 or 1.
      bias: [S, C'] or None.
      addend: [S, B, H, W, C'] or None.
      slope: of the rectifier where its input is negative, None for no rectifier.
      sms: of the GPU.
      shuffles: whether the result goes through `ops.pixel_shuffle` with a factor of 2 as it is stored; C' must be a
        multiple of 256.
      plan: None: the one that is made for these shapes.
      interpret: Mosaic GPU's `InterpretGPUParams` to run anywhere, very slowly, for tests.

    Returns:
      [S, B, H, W, C'] in the dtype of the kernel, shuffled [S, B, 2H, 2W, C' / 4].
    """
    features = kernel.shape[-1]
    if shuffles:  # first the outputs of one place
        kernel, bias = (None if a is None else _sort_places(a) for a in (kernel, bias))
    elif missing := -features % 8:  # 16 bytes, of which copies are made
        kernel, bias, addend = (_pad_last(a, missing) for a in (kernel, bias, addend))

    size, channels = kernel.shape[1], kernel.shape[3]
    most = next(n for n in itertools.count(pl.cdiv(channels, CHUNK), -1) if make_plan(size, n, True))
    sources, row = [], 0
    for x in inputs:
        for first in range(0, x.shape[-1], most * CHUNK):
            sources.append(_Source(x, first, min(most * CHUNK, x.shape[-1] - first), row + first))
        row += x.shape[-1]
    call = functools.partial(_run_sources, sms=sms, plan=plan, interpret=interpret)
    while sum(source.chunks for source in sources) > most:
        addend = call(sources[:1], kernel, None, addend, slope=None, shuffles=False)
        sources = sources[1:]
    out = call(sources, kernel, bias, addend, slope=slope, shuffles=shuffles)
    return out if shuffles else out[..., :features]


def _sort_places(x):
    """Returns outputs in the order place, channel of what is in the order of `ops.pixel_shuffle`, channel, place."""
    return x.reshape(*x.shape[:-1], -1, 4).swapaxes(-1, -2).reshape(x.shape)


def _pad_last(x, missing):
    return None if x is None else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])


class _Source(NamedTuple):
    """Channels that are convolved together: those of x [G, B, H, W, C] from `first` on, with the kernel's from `row`."""

    x: jax.Array
    first: int
    channels: int
    row: int

    @property
    def chunks(self):
        return pl.cdiv(self.channels, CHUNK)


def _run_sources(sources, kernel, bias, addend, *, slope, shuffles, sms, plan, interpret):
    batch, height, width = sources[0].x.shape[1:4]
    sets, size, _, channels, features = kernel.shape
    dtype = kernel.dtype
    chunks = [source.chunks for source in sources]
    begins = [sum(chunks[:number]) for number in range(len(chunks))]
    count, taps = sum(chunks), size**2
    has_addend = addend is not None
    turns, stages = plan or make_plan(size, count, has_addend)
    blocks = pl.cdiv(features, CHUNK)
    across, down = pl.cdiv(width, COLUMNS), pl.cdiv(height, _LINES)
    windows = batch * down * across
    programs = min(max(sms // (sets * blocks), 1), windows)
    margin = 0 if interpret is None else 1  # interpreted, a copy knows no places before the beginning
    start, multiply_tap = _make_products(interpret)
    out_shape = (sets * batch, height, width, features)
    if shuffles:
        out_shape = (sets * batch, height, 2, width, features // 2)

    def body(*refs):
        x_refs, (kernel_ref, bias_ref, *addend_ref, out_ref) = refs[: len(sources)], refs[len(sources) :]
        part, program, thread = (lax.axis_index(name) for name in ("part", "program", "thread"))
        number_of_set, block = lax.div(part, blocks), lax.rem(part, blocks)

        def place(turn, step):
            """Returns where the window of this turn's block in its step begins: image of the set, y, x."""
            window = program + (turns * step + turn) * programs
            line = lax.div(window, across)
            return lax.div(line, down), lax.rem(line, down) * _LINES, lax.rem(window, across) * COLUMNS

        def scope(weights, fetched, results, weights_there, is_there, is_free, addend_there, *addends):
            result_lines, result_tiles = results

            def steps(turn):
                """Returns how many windows the turn's block makes."""
                mine = lax.div(windows - program + programs - 1, programs)
                return lax.div(mine - turn + turns - 1, turns)

            def stage_of(turn, step, chunk):
                return turn * stages + lax.rem(step * count + chunk, stages)

            def fetch_weights(number):
                chunk, tap = lax.div(number, taps), lax.rem(number, taps)
                plgpu.copy_gmem_to_smem(
                    kernel_ref.at[
                        number_of_set * taps + tap,
                        pl.ds(sources[0].row + chunk * CHUNK, CHUNK),
                        pl.ds(block * CHUNK, CHUNK),
                    ],
                    weights.at[number],
                    weights_there,
                )

            def fetch_window(turn, step, chunk):
                image, y, x = place(turn, step)
                stage = stage_of(turn, step, chunk)

                def fetch_from(x_ref, source, begin):
                    plgpu.copy_gmem_to_smem(
                        x_ref.at[
                            lax.rem(number_of_set, len(source.x)) * batch + image,
                            pl.ds(y - size // 2 + margin, _LINES + size - 1),
                            pl.ds(x - size // 2 + margin, COLUMNS + size - 1),
                            pl.ds(source.first + (chunk - begin) * CHUNK, CHUNK),
                        ],
                        fetched.at[stage, pl.ds(0, _LINES + size - 1)],
                        is_there.at[stage],
                    )

                plgpu.barrier_wait(is_free.at[stage])
                copies = [
                    functools.partial(fetch_from, *operands)
                    for operands in zip(x_refs, sources, begins, strict=True)
                ]
                if len(copies) == 1:
                    copies[0]()
                else:
                    lax.switch(sum(lax.min(lax.div(chunk, begin), 1) for begin in begins[1:]), copies)

            def fetch():
                if turns == 2:
                    plgpu.set_max_registers(40, action="decrease")
                pl.loop(0, taps * count)(fetch_weights)

                @pl.loop(0, steps(0) * count)
                def _(number):
                    step, chunk = lax.div(number, count), lax.rem(number, count)
                    for turn in range(turns):
                        _when_positive(steps(turn) - step, functools.partial(fetch_window, turn, step, chunk))

            def multiply():
                turn = thread
                if turns == 2:
                    plgpu.set_max_registers(232, action="increase")
                for stage in range(stages):
                    plgpu.barrier_arrive(is_free.at[turn * stages + stage])
                biases = plgpu.load(
                    bias_ref.at[number_of_set, pl.ds(block * CHUNK, CHUNK)],
                    layout=plgpu.Layout.WGMMA.reduce(0),
                    optimized=False,
                )
                plgpu.barrier_wait(weights_there)

                def at(ref, step, shuffles=False):
                    image, y, x = place(turn, step)
                    lines, columns = pl.ds(y, _LINES), pl.ds(x, COLUMNS)
                    if not shuffles:
                        return ref.at[
                            number_of_set * batch + image, lines, columns, pl.ds(block * CHUNK, CHUNK)
                        ]
                    each = blocks // 4  # of the shuffled image, [images, y, 2, x, 2 x channels]
                    number = lax.div(block, each)
                    first = lax.rem(number, 2) * (features // 4) + lax.rem(block, each) * CHUNK
                    return ref.at[
                        number_of_set * batch + image,
                        lines,
                        lax.div(number, 2),
                        columns,
                        pl.ds(first, CHUNK),
                    ]

                def fetch_addend(step):
                    plgpu.copy_gmem_to_smem(
                        at(addend_ref[0], step), addends[0][0].at[turn], addend_there.at[turn]
                    )

                if addend_ref:
                    _when_positive(steps(turn), functools.partial(fetch_addend, 0))

                @pl.loop(0, steps(turn))
                def _(step):
                    def add_chunk(chunk, sums):
                        stage = stage_of(turn, step, chunk)
                        plgpu.barrier_wait(is_there.at[stage])

                        def add_tap(tap, sums):
                            line, column = lax.div(tap, size), lax.rem(tap, size)
                            window = fetched.at[stage, pl.ds(line, _LINES), pl.ds(column, COLUMNS)]
                            return multiply_tap(sums, window, weights.at[chunk * taps + tap])

                        sums = lax.fori_loop(0, taps, add_tap, sums)
                        plgpu.wgmma_wait(0)
                        plgpu.barrier_arrive(is_free.at[stage])
                        return sums

                    result = lax.fori_loop(0, count, add_chunk, start())
                    if interpret is None:
                        result = plgpu.layout_cast(result, plgpu.Layout.WGMMA)
                    result += lax.broadcast_in_dim(biases.astype(jnp.float32), result.shape, [1])
                    if addend_ref:
                        plgpu.barrier_wait(addend_there.at[turn])
                        _show_as_tiles(addends[0], turn, interpret)
                        result += addends[0][1][turn].astype(jnp.float32)
                    if slope is not None:
                        result = jnp.maximum(result, slope * result if slope else 0.0)
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    result_tiles[turn] = result.astype(dtype)
                    _show_as_lines(results, turn, interpret)
                    plgpu.commit_smem()  # after which all threads have read their addends
                    plgpu.copy_smem_to_gmem(result_lines.at[turn], at(out_ref, step, shuffles))
                    if addend_ref:
                        _when_positive(steps(turn) - step - 1, functools.partial(fetch_addend, step + 1))

                plgpu.wait_smem_to_gmem(0, wait_read_only=True)

            lax.switch(lax.div(thread, turns), [multiply, fetch])

        pl.run_scoped(
            scope,
            plgpu.SMEM((taps * count, CHUNK, CHUNK), dtype, transforms=_AS_TILES),
            plgpu.SMEM((turns * stages, *window_shape(_LINES, size)), dtype, transforms=AS_LINES),
            _allocate_results(turns, dtype),
            plgpu.Barrier(num_arrivals=taps * count),
            plgpu.Barrier(num_barriers=turns * stages),
            plgpu.Barrier(num_barriers=turns * stages),
            plgpu.Barrier(num_barriers=turns),
            *([_allocate_results(turns, dtype)] if has_addend else []),
            collective_axes="thread",
        )

    call = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(out_shape, dtype),
        grid=(sets * blocks, programs),
        grid_names=("part", "program"),
        num_threads=turns + 1,
        thread_name="thread",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name=f"conv{size}x{size}",
        interpret=interpret,
    )
    bias = jnp.zeros((sets, features), dtype) if bias is None else bias
    kernel = kernel.reshape(sets * taps, channels, features)
    kernel, bias = (_pad_last(a, blocks * CHUNK - features) for a in (kernel, bias))
    images = [source.x.reshape(-1, *source.x.shape[2:]) for source in sources]
    images = [jnp.pad(x, ((0, 0), (margin, 0), (margin, 0), (0, 0))) for x in images]
    addends = [addend.reshape(-1, *addend.shape[2:])] if has_addend else []
    out = call(*images, kernel, bias, *addends)
    if shuffles:
        return out.reshape(sets, batch, 2 * height, 2 * width, features // 4)
    return out.reshape(sets, batch, height, width, features)


def _make_products(interpret):
    """Returns two functions: the sums at the start, and the sums plus one tap's product."""
    shape = (_PIXELS, CHUNK)
    if interpret is not None:

        def multiply_values(sums, window, weights):
            window = window[...].reshape(shape)
            return sums + jnp.dot(window, weights[...], preferred_element_type=jnp.float32)

        return lambda: jnp.zeros(shape, jnp.float32), multiply_values

    @plgpu.inline_mgpu(
        arg_types=(SUMS, plgpu.RefType(AS_LINES), plgpu.RefType(_AS_TILES)), return_type=describe_sums(shape)
    )
    def multiply(context, sums, window, weights):
        return add_product(sums, mgpu.memref_unsqueeze(window, 1), weights)  # [lines, 1, columns, channels]

    return make_start(shape), multiply


def _when_positive(number, function):
    """Calls a function if an integer is positive; `pl.when` of a comparison takes twice as long to lower."""

    def nothing():
        pass

    lax.switch(number, [nothing, function])


_AS_TILES = (plgpu.TilingTransform((8, CHUNK)), INTERLEAVED)


def _allocate_results(count, dtype):
    """The same memory twice: as lines, which are copied, and as tiles, which are computed."""
    return plgpu.RefUnion(
        plgpu.SMEM((count, _LINES, COLUMNS, CHUNK), dtype, transforms=AS_LINES),
        plgpu.SMEM((count, _PIXELS, CHUNK), dtype, transforms=_AS_TILES),
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
