"""3x3 and 1x1 convolutions for NVIDIA Hopper GPUs (Pallas, Mosaic GPU lowering).

64 channels make narrow products, for which cuDNN has no fast kernel; the concatenation of inputs and the epilogue would
go through global memory. Here a consumer warpgroup makes a window of 8x8 output pixels: for each tap, the wgmma
[pixels, 64 channels] @ [64 channels, outputs]. Bias, addend, ReLU and rounding are applied to the accumulator.

* A CTA keeps all weights of its 64 output channels in shared memory and loops over windows.
* A window is fetched once by TMA, with its margin. Each tap is another address of it (`ops/mosaic/windows.py`).
* A memory warpgroup fetches ahead for two or three consumer warpgroups: the tensor cores work for one consumer while
  another is in its epilogue.
* S convolutions of one shape, each with weights of its own, are one call: small ones fill the GPU together.
* Loops are not unrolled: the networks need forty such kernels, and each has to be lowered and compiled.

docs/kernels.md draws the schedule.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from stvsr_jax.ops.conv.mosaic_problem import Plan, Problem, Refs, Smem, Source, make_plan
from stvsr_jax.ops.mosaic import private
from stvsr_jax.ops.mosaic.private import mgpu
from stvsr_jax.ops.mosaic.windows import AS_LINES, AS_TILES, CHUNK, COLUMNS, LINES, PIXELS, window_shape


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
    """Runs the kernel: ReLU(conv(inputs) + bias + addend) for each of S sets, see `ops.conv2d`.

    Args:
      inputs: [G_i, B, H, W, C_i] each, see `is_supported`; set s reads part s % G_i. If the weights of all channels do
        not fit into shared memory, the channels go through the kernel in parts, each adding to the one before.
      kernel: [S, k, k, sum of C_i, C'], k = 3 or 1.
      bias: [S, C'] or None.
      addend: [S, B, H, W, C'] or None.
      slope: negative slope of the ReLU, None: linear.
      sms: SMs of the GPU.
      shuffles: whether the result is stored as `ops.pixel_shuffle` by a factor of 2 would; C' is a multiple of 256.
      plan: None: the one for these shapes.
      interpret: Mosaic GPU's `InterpretGPUParams`, to run anywhere, very slowly, for tests.

    Returns:
      [S, B, H, W, C'] in the dtype of the kernel, shuffled [S, B, 2H, 2W, C' / 4].
    """
    features = kernel.shape[-1]
    if shuffles:  # first the outputs of one place, so that a chunk lies in one row and column of the result
        kernel, bias = (None if a is None else _sort_places(a) for a in (kernel, bias))
    elif missing := -features % 8:  # TMA copies multiples of 16 bytes
        kernel, bias, addend = (_pad_last(a, missing) for a in (kernel, bias, addend))

    size, channels = kernel.shape[1], kernel.shape[3]
    most = next(n for n in itertools.count(pl.cdiv(channels, CHUNK), -1) if make_plan(size, n, True))
    sources, row = [], 0
    for x in inputs:
        for first in range(0, x.shape[-1], most * CHUNK):
            sources.append(
                Source(x=x, first=first, channels=min(most * CHUNK, x.shape[-1] - first), row=row + first)
            )
        row += x.shape[-1]
    call = functools.partial(_run_sources, sms=sms, plan=plan, interpret=interpret)
    while sum(source.chunks for source in sources) > most:
        addend = call(sources[:1], kernel, None, addend, slope=None, shuffles=False)
        sources = sources[1:]
    out = call(sources, kernel, bias, addend, slope=slope, shuffles=shuffles)
    return out if shuffles else out[..., :features]


def _sort_places(x):
    """Returns outputs in the order place, channel; `ops.pixel_shuffle` has them in the order channel, place."""
    return x.reshape(*x.shape[:-1], -1, 4).swapaxes(-1, -2).reshape(x.shape)


def _pad_last(x, missing):
    return None if x is None else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])


def _run_sources(sources, kernel, bias, addend, *, slope, shuffles, sms, plan, interpret):
    """Runs the kernel on channels whose weights fit into shared memory."""
    p = Problem.of(sources, kernel, addend, slope, shuffles, sms, plan, interpret)
    # Weights stay. Windows are a ring for each consumer: `full` if TMA has written a stage, `empty` if it has been read.
    smem = {
        "weights": plgpu.SMEM((p.taps * p.count, CHUNK, CHUNK), p.dtype, transforms=AS_TILES),
        "windows": plgpu.SMEM(
            (p.consumers * p.stages, *window_shape(LINES, p.size)), p.dtype, transforms=AS_LINES
        ),
        "results": _allocate_results(p),
        "weights_full": plgpu.Barrier(num_arrivals=p.taps * p.count),
        "full": plgpu.Barrier(num_barriers=p.consumers * p.stages),
        "empty": plgpu.Barrier(num_barriers=p.consumers * p.stages),
        "addend_full": plgpu.Barrier(num_barriers=p.consumers),
    }
    if p.has_addend:
        smem["addends"] = _allocate_results(p)

    def body(*refs):
        refs = Refs.of(refs, p)
        part, cta, wg = (lax.axis_index(name) for name in ("part", "cta", "wg"))
        number, block = lax.div(part, p.blocks), lax.rem(part, p.blocks)

        def scope(*held):
            held = Smem(**dict(zip(smem, held, strict=True)))
            compute = functools.partial(_compute_wg, p, refs, held, number, block, cta, wg)
            memory = functools.partial(_memory_wg, p, refs, held, number, block, cta)
            lax.switch(lax.div(wg, p.consumers), [compute, memory])  # the last warpgroup fetches

        pl.run_scoped(scope, *smem.values(), collective_axes="wg")

    out_shape = (p.sets * p.batch, p.height, p.width, p.features)
    if shuffles:
        out_shape = (p.sets * p.batch, p.height, 2, p.width, p.features // 2)
    call = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(out_shape, p.dtype),
        grid=(p.sets * p.blocks, p.ctas),
        grid_names=("part", "cta"),
        num_threads=p.consumers + 1,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        kernel_name=f"conv{p.size}x{p.size}",
        interpret=interpret,
    )
    bias = jnp.zeros((p.sets, p.features), p.dtype) if bias is None else bias
    kernel = kernel.reshape(p.sets * p.taps, -1, p.features)
    kernel, bias = (_pad_last(a, p.blocks * CHUNK - p.features) for a in (kernel, bias))
    images = [source.x.reshape(-1, *source.x.shape[2:]) for source in sources]
    images = [jnp.pad(x, ((0, 0), (p.margin, 0), (p.margin, 0), (0, 0))) for x in images]
    addends = [addend.reshape(-1, *addend.shape[2:])] if p.has_addend else []
    out = call(*images, kernel, bias, *addends)
    if shuffles:
        return out.reshape(p.sets, p.batch, 2 * p.height, 2 * p.width, p.features // 4)
    return out.reshape(p.sets, p.batch, p.height, p.width, p.features)


def _memory_wg(p, refs, smem, number, block, cta):
    """Fetches all weights, then each consumer's windows, one chunk of channels at a time."""
    if p.consumers == 2:
        # 3 warpgroups share 64k registers, 168 per thread. This one needs 40; the consumers take the others' 232.
        plgpu.set_max_registers(40, action="decrease")

    @pl.loop(0, p.taps * p.count)
    def _(index):
        chunk, tap = lax.div(index, p.taps), lax.rem(index, p.taps)
        plgpu.copy_gmem_to_smem(
            refs.kernel.at[
                number * p.taps + tap,
                pl.ds(p.sources[0].row + chunk * CHUNK, CHUNK),
                pl.ds(block * CHUNK, CHUNK),
            ],
            smem.weights.at[index],
            smem.weights_full,
        )

    # Consumer 0 has the most windows. The order is the one in which they are read: step, chunk, consumer.
    @pl.loop(0, p.count_windows(0, cta) * p.count)
    def _(index):
        step, chunk = lax.div(index, p.count), lax.rem(index, p.count)
        for consumer in range(p.consumers):
            fetch = functools.partial(_fetch_window, p, refs, smem, number, cta, consumer, step, chunk)
            _if_positive(p.count_windows(consumer, cta) - step, fetch)

    if p.interpret is not None:
        # Who waits for a barrier at all has to see it complete each time, says the interpreter of jax 0.11.
        @pl.loop(0, p.consumers * p.stages)
        def _(stage):
            plgpu.barrier_wait(smem.empty.at[stage])


def _fetch_window(p, refs, smem, number, cta, consumer, step, chunk):
    image, y, x = p.place(consumer, step, cta)
    stage = p.stage_of(consumer, step, chunk)

    def fetch_from(x_ref, source, begin):
        # What lies outside the image arrives as zeros: the padding.
        plgpu.copy_gmem_to_smem(
            x_ref.at[
                lax.rem(number, len(source.x)) * p.batch + image,
                pl.ds(y - p.size // 2 + p.margin, LINES + p.size - 1),
                pl.ds(x - p.size // 2 + p.margin, COLUMNS + p.size - 1),
                pl.ds(source.first + (chunk - begin) * CHUNK, CHUNK),
            ],
            smem.windows.at[stage, pl.ds(0, LINES + p.size - 1)],
            smem.full.at[stage],
        )

    plgpu.barrier_wait(smem.empty.at[stage])
    copies = [
        functools.partial(fetch_from, *operands)
        for operands in zip(refs.x, p.sources, p.first_chunks, strict=True)
    ]
    if len(copies) == 1:
        copies[0]()
    else:  # which input the chunk is in
        lax.switch(sum(lax.min(lax.div(chunk, begin), 1) for begin in p.first_chunks[1:]), copies)


def _compute_wg(p, refs, smem, number, block, cta, wg):
    """Multiplies and stores every `consumers`-th window of the CTA; it is consumer `wg`."""
    if p.consumers == 2:
        plgpu.set_max_registers(232, action="increase")
    for stage in range(p.stages):  # at first all are empty
        plgpu.barrier_arrive(smem.empty.at[wg * p.stages + stage])
    bias = plgpu.load(
        refs.bias.at[number, pl.ds(block * CHUNK, CHUNK)],
        layout=plgpu.Layout.WGMMA.reduce(0),
        optimized=False,
    )
    plgpu.barrier_wait(smem.weights_full)
    zeros, multiply_tap = _make_products(p.interpret)
    result_lines, result_tiles = smem.results

    def fetch_addend(step):
        source = _result_at(p, refs.addend, number, block, cta, wg, step)
        plgpu.copy_gmem_to_smem(source, smem.addends[0].at[wg], smem.addend_full.at[wg])

    if p.has_addend:
        _if_positive(p.count_windows(wg, cta), functools.partial(fetch_addend, 0))

    @pl.loop(0, p.count_windows(wg, cta))
    def _(step):
        def add_chunk(chunk, acc):
            stage = p.stage_of(wg, step, chunk)
            plgpu.barrier_wait(smem.full.at[stage])

            def add_tap(tap, acc):
                line, column = lax.div(tap, p.size), lax.rem(tap, p.size)
                window = smem.windows.at[stage, pl.ds(line, LINES), pl.ds(column, COLUMNS)]
                return multiply_tap(acc, window, smem.weights.at[chunk * p.taps + tap])

            acc = lax.fori_loop(0, p.taps, add_tap, acc)
            plgpu.wgmma_wait(0)  # the tensor cores have read the stage
            plgpu.barrier_arrive(smem.empty.at[stage])
            return acc

        acc = lax.fori_loop(0, p.count, add_chunk, zeros())  # stays in registers over all taps and chunks
        if p.interpret is None:
            acc = plgpu.layout_cast(acc, plgpu.Layout.WGMMA)
        acc += lax.broadcast_in_dim(bias.astype(jnp.float32), acc.shape, [1])
        if p.has_addend:
            plgpu.barrier_wait(smem.addend_full.at[wg])
            _show_as_tiles(smem.addends, wg, p.interpret)
            acc += smem.addends[1][wg].astype(jnp.float32)
        if p.slope is not None:
            acc = jnp.maximum(acc, p.slope * acc if p.slope else 0.0)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # the store of the step before has read the buffer
        result_tiles[wg] = acc.astype(p.dtype)
        _show_as_lines(smem.results, wg, p.interpret)
        plgpu.commit_smem()  # all threads have written their results, and read their addends
        target = _result_at(p, refs.out, number, block, cta, wg, step, p.shuffles)
        plgpu.copy_smem_to_gmem(result_lines.at[wg], target)
        if p.has_addend:
            # The next window's addend arrives while its products are made.
            _if_positive(p.count_windows(wg, cta) - step - 1, functools.partial(fetch_addend, step + 1))

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # shared memory must outlive the last store


def _result_at(p, ref, number, block, cta, consumer, step, shuffles=False):
    """Returns the part of a result or an addend that is a consumer's window."""
    image, y, x = p.place(consumer, step, cta)
    lines, columns = pl.ds(y, LINES), pl.ds(x, COLUMNS)
    if not shuffles:
        return ref.at[number * p.batch + image, lines, columns, pl.ds(block * CHUNK, CHUNK)]
    each = p.blocks // 4  # blocks of one of the 2x2 places; the result is [images, y, 2, x, 2 x channels]
    place = lax.div(block, each)
    first = lax.rem(place, 2) * (p.features // 4) + lax.rem(block, each) * CHUNK
    return ref.at[number * p.batch + image, lines, lax.div(place, 2), columns, pl.ds(first, CHUNK)]


def _make_products(interpret):
    """Returns two functions: an accumulator of zeros, and an accumulator plus one tap's product."""
    shape = (PIXELS, CHUNK)
    if interpret is not None:

        def multiply_values(acc, window, weights):
            window = window[...].reshape(shape)
            return acc + jnp.dot(window, weights[...], preferred_element_type=jnp.float32)

        return lambda: jnp.zeros(shape, jnp.float32), multiply_values

    @plgpu.inline_mgpu(
        arg_types=(private.ACC, plgpu.RefType(AS_LINES), plgpu.RefType(AS_TILES)),
        return_type=private.describe_acc(shape),
    )
    def multiply(context, acc, window, weights):
        window = mgpu.memref_unsqueeze(window, 1)  # [lines, 1, columns, channels]
        return private.start_wgmma(acc, window, weights)

    return private.make_zeros(shape), multiply


def _if_positive(number, function):
    """Calls a function if an integer is positive; `pl.when` of a comparison takes twice as long to lower."""

    def nothing():
        pass

    lax.switch(number, [nothing, function])


def _allocate_results(p):
    """The same shared memory twice: as lines, which TMA copies, and as tiles, which wgmma's layout stores."""
    return plgpu.RefUnion(
        plgpu.SMEM((p.consumers, LINES, COLUMNS, CHUNK), p.dtype, transforms=AS_LINES),
        plgpu.SMEM((p.consumers, PIXELS, CHUNK), p.dtype, transforms=AS_TILES),
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
