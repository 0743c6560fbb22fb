"""What a convolution kernel for Hopper GPUs knows when it is traced: shapes, who does which window, what lies where."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.experimental import pallas as pl

from stvsr_jax.ops.mosaic.windows import CHUNK, COLUMNS, LINES, PIXELS, SMEM_BYTES, window_shape


class Plan(NamedTuple):
    """How a CTA works.

    Attributes:
      consumers: warpgroups that multiply.
      stages: windows in shared memory for each of them.
    """

    consumers: int
    stages: int


def make_plan(size: int, chunks: int, has_addend: bool = False) -> Plan | None:
    """Returns the plan with the most consumers, then stages, that fits into shared memory; None if none does.

    Args:
      size: of the kernel, 3 or 1.
      chunks: of 64 input channels.
      has_addend: whether addends take shared memory, too.
    """
    for plan in (Plan(3, 3), Plan(3, 2), Plan(2, 2), Plan(2, 1)):
        values = chunks * size**2 * CHUNK * CHUNK
        values += plan.consumers * plan.stages * math.prod(window_shape(LINES, size))
        values += plan.consumers * PIXELS * CHUNK * (2 if has_addend else 1)
        if 2 * values <= SMEM_BYTES:
            return plan
    return None


class Source(NamedTuple):
    """Channels that are convolved together.

    Attributes:
      x: [G, B, H, W, C].
      first: of its channels.
      channels: how many.
      row: of the kernel, for the first channel.
    """

    x: jax.Array
    first: int
    channels: int
    row: int

    @property
    def chunks(self) -> int:
        return pl.cdiv(self.channels, CHUNK)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One call of the kernel.

    Attributes:
      sources: inputs.
      sets: convolutions S.
      size: of the kernel.
      batch, height, width: of the images.
      features: output channels.
      dtype: of all arrays.
      slope, shuffles, has_addend: the epilogue.
      consumers, stages: the plan.
      ctas: that share the windows of one set and block of 64 output channels.
      interpret: see `mosaic.run`.
    """

    sources: Sequence[Source]
    sets: int
    size: int
    batch: int
    height: int
    width: int
    features: int
    dtype: Any
    slope: float | None
    shuffles: bool
    has_addend: bool
    consumers: int
    stages: int
    ctas: int
    interpret: Any

    @classmethod
    def of(cls, sources, kernel, addend, slope, shuffles, sms, plan, interpret) -> "Problem":
        """Returns the problem of `mosaic.run`'s arguments."""
        batch, height, width = sources[0].x.shape[1:4]
        sets, size, _, _, features = kernel.shape
        count = sum(source.chunks for source in sources)
        consumers, stages = plan or make_plan(size, count, addend is not None)
        windows = batch * pl.cdiv(height, LINES) * pl.cdiv(width, COLUMNS)
        return cls(
            sources=sources,
            sets=sets,
            size=size,
            batch=batch,
            height=height,
            width=width,
            features=features,
            dtype=kernel.dtype,
            slope=slope,
            shuffles=shuffles,
            has_addend=addend is not None,
            consumers=consumers,
            stages=stages,
            ctas=min(max(sms // (sets * pl.cdiv(features, CHUNK)), 1), windows),
            interpret=interpret,
        )

    @property
    def taps(self) -> int:
        return self.size**2

    @property
    def count(self) -> int:
        """Chunks of all sources."""
        return sum(source.chunks for source in self.sources)

    @property
    def first_chunks(self) -> list[int]:
        """The first chunk of each source."""
        return [sum(source.chunks for source in self.sources[:n]) for n in range(len(self.sources))]

    @property
    def blocks(self) -> int:
        """Blocks of 64 output channels."""
        return pl.cdiv(self.features, CHUNK)

    @property
    def across(self) -> int:
        """Windows in a row of an image."""
        return pl.cdiv(self.width, COLUMNS)

    @property
    def down(self) -> int:
        return pl.cdiv(self.height, LINES)

    @property
    def margin(self) -> int:
        """Pixels in front of the images: the interpreter's copies cannot begin before an array."""
        return 0 if self.interpret is None else 1

    def place(self, consumer, step, cta):
        """Returns where a consumer's window begins in its step: image of the set, y, x."""
        window = cta + (self.consumers * step + consumer) * self.ctas
        line = lax.div(window, self.across)
        return (
            lax.div(line, self.down),
            lax.rem(line, self.down) * LINES,
            lax.rem(window, self.across) * COLUMNS,
        )

    def count_windows(self, consumer, cta):
        """Returns how many windows a consumer makes."""
        windows = self.batch * self.down * self.across
        mine = lax.div(windows - cta + self.ctas - 1, self.ctas)
        return lax.div(mine - consumer + self.consumers - 1, self.consumers)

    def stage_of(self, consumer, step, chunk):
        return consumer * self.stages + lax.rem(step * self.count + chunk, self.stages)


class Refs(NamedTuple):
    """Arrays in global memory.

    Attributes:
      x: of each source, [G B, H, W, C].
      kernel: [S taps, channels, outputs].
      bias: [S, outputs].
      addend: [S B, H, W, C'] or None.
      out: [S B, H, W, C'] or shuffled.
    """

    x: tuple[Any, ...]
    kernel: Any
    bias: Any
    addend: Any
    out: Any

    @classmethod
    def of(cls, refs, problem: Problem) -> "Refs":
        count = len(problem.sources)
        kernel, bias, *addend, out = refs[count:]
        return cls(x=refs[:count], kernel=kernel, bias=bias, addend=addend[0] if addend else None, out=out)


class Smem(NamedTuple):
    """What a CTA has in shared memory.

    Attributes:
      weights: [chunks x taps, 64, 64].
      windows: [consumers x stages, lines, columns, 64].
      results: a window for each consumer, as lines and as tiles.
      weights_full: all weights have arrived.
      full: a stage has arrived.
      empty: a stage has been read.
      addend_full: a consumer's addend has arrived.
      addends: as `results`, or None.
    """

    weights: Any
    windows: Any
    results: Any
    weights_full: Any
    full: Any
    empty: Any
    addend_full: Any
    addends: Any = None
