"""What the rest of the package knows of a network. Each network's own module holds its contract.

A network is a flax module with the fields `dtype` and `remat`, the class attribute `contract`, and three methods:

    __call__(frames, times, *, out_size, chunk_rows=None)               training and benchmark
    encode(frames)                                                      inference, once for a window
    decode(encoded, times, *, out_size, chunk_rows=None, grid=None)     inference, for each instant

frames are [B, N, H, W, 3] in [0, 1], N >= 2, H and W multiples of four. times are [B, T] in [0, 1]: 0 is the first
frame of the window, 1 the last. out_size is (H', W'). `__call__` and `decode` return [B, T, H', W', 3] float32, not
clamped. `__call__` of a network with fixed instants (`steps`) gets all of them, in order. `encode` returns any pytree
of arrays. `chunk_rows` is how many rows of output to render at a time, in bounded memory; a network may ignore it.
`grid` is what `make_grid` returned.

A new network is one module with its contract, and one line in `models.MODELS`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Sizes of one call of the benchmark.

    Attributes:
      batch: windows B.
      frames: frames N of a window.
      height: of the low-resolution frames.
      width: of the low-resolution frames.
      times: output instants T.
      scale: enlargement.
    """

    batch: int
    frames: int
    height: int
    width: int
    times: int
    scale: int = 4

    @property
    def out_size(self) -> tuple[int, int]:
        """(H', W')."""
        return self.scale * self.height, self.scale * self.width

    def __str__(self) -> str:
        height, width = self.out_size
        given = f"{self.batch} x {self.frames}x{self.height}x{self.width}"
        return f"{given} -> {self.times}x{height}x{width}"


def no_grid(
    out_size: tuple[int, int],
    *,
    origin: tuple[int, int] = (0, 0),
    whole_size: tuple[int, int] | None = None,
) -> None:
    """Returns the grid of a network whose output does not depend on where a tile lies: none."""


def accept_fields(model: nn.Module) -> None:
    """Accepts any fields of a module."""


def choose_instants(rendered: jax.Array, times: jax.Array) -> jax.Array:
    """Chooses among the instants that a network of fixed ones has rendered.

    Args:
      rendered: [B, M, ...], all instants in order.
      times: [B, T] in [0, 1], each one of the M.

    Returns:
      [B, T, ...].
    """
    index = jnp.round(times * (rendered.shape[1] - 1)).astype(jnp.int32)
    index = index.reshape(*index.shape, *(1,) * (rendered.ndim - 2))  # [B, T, 1, ...]
    return jnp.take_along_axis(rendered, index, axis=1)


@dataclasses.dataclass(frozen=True)
class Contract:
    """What a network can do, and what it needs.

    Attributes:
      title: for people, as in its paper.
      paper: number on arXiv.
      window_size: frames N of a window in inference. If it is 2, the network takes pairs only; otherwise it takes any
        N from 2, as scenes may be shorter.
      keeps_earlier: whether a frame in two windows is taken from the earlier window, otherwise from the later one.
      scale: the one enlargement that it can do; None: any from 1.
      steps: it renders multiples of 1/steps of the time between two frames; None: any instant.
      bytes_per_pixel: memory of one window per low-resolution pixel at the published sizes in float32.
      inference_batch: default of the benchmark.
      training_batch: default of the benchmark with --train.
      make_grid: from (out_size, *, origin, whole_size) to a pytree of arrays for `decode`: where an output lies that
        is a tile of a whole frame. All are (y, x) in output pixels; without `whole_size` the output is the whole.
      check_fields: raises ValueError if a module's fields do not fit each other.
      published_layers: yields (layer's name in the published PyTorch weights, path of the layer's parameters, or of
        their `kernel<i>`); None: there are no published weights.
      published_unused: published tensors that the network never uses.
    """

    title: str
    paper: str
    window_size: int
    keeps_earlier: bool
    scale: int | None
    steps: int | None
    bytes_per_pixel: int
    inference_batch: BatchShape
    training_batch: BatchShape
    make_grid: Callable[..., Any] = no_grid
    check_fields: Callable[[nn.Module], None] = accept_fields
    published_layers: Callable[[], Iterable[tuple[str, tuple[str, ...]]]] | None = None
    published_unused: frozenset[str] = frozenset()

    @property
    def takes_any_window(self) -> bool:
        """Whether a window may have any number of frames from 2, otherwise exactly 2."""
        return self.window_size > 2

    @property
    def is_free(self) -> bool:
        """Whether it renders any instant at any scale."""
        return self.scale is None and self.steps is None

    @property
    def frame_counts(self) -> tuple[int, ...] | None:
        """Output frames per input frame that it can make, ascending; None: any number."""
        if self.steps is None:
            return None
        return tuple(n for n in range(1, self.steps + 1) if self.steps % n == 0)

    def name_counts(self) -> str:
        """Returns the `frame_counts` of a network of fixed instants in words, '1 or 2 frames'."""
        *others, last = map(str, self.frame_counts)
        return f"{', '.join(others)} or {last} frames" if others else f"{last} frame"

    def can_make(self, *, space: float, time: int) -> bool:
        """Returns whether it can enlarge `space` times and make `time` output frames of each."""
        return self.scale in (None, space) and (self.steps is None or time in self.frame_counts)

    def can_render(self, time: Any) -> bool:
        """Returns whether it can render an instant, in frames after the first."""
        return self.steps is None or time * self.steps == int(time * self.steps)

    def count_instants(self, frames: int) -> int:
        """Returns how many instants a network of fixed ones renders of N frames."""
        return (frames - 1) * self.steps + 1

    def benchmark_shape(self, *, is_training: bool, **sizes: int | None) -> BatchShape:
        """Returns the sizes of one call of the benchmark.

        Args:
          is_training: a training step; otherwise inference.
          **sizes: fields of `BatchShape`; None or missing: the default. Fixed instants are those of the frames.
        """
        default = self.training_batch if is_training else self.inference_batch
        given = {name: size for name, size in sizes.items() if size is not None}
        shape = dataclasses.replace(default, scale=self.scale or default.scale, **given)
        return (
            shape
            if self.steps is None
            else dataclasses.replace(shape, times=self.count_instants(shape.frames))
        )
