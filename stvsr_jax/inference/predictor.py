"""Runs a network on one window of frames: numpy in, numpy out, 8-bit or float.

Frames are padded to multiples of four by repeating their edges and the outputs cropped; large ones go through
in tiles. Every shape is compiled once.
"""

import functools
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.inference import tiling

# Frames of a window, and whether a frame in two windows is taken from the earlier one.
WINDOW_SIZES = {"zooming_slowmo": 4, "videoinr": 2}
KEEP_EARLIER = {"zooming_slowmo": True, "videoinr": False}
SMALLEST_TILE = 2 * tiling.OVERLAP

# Memory of one window per low-resolution pixel, in bytes, and how much of the device's memory to take.
# The compiler reports 57 kB and 30 kB (float32, published sizes, 128x128, CPU); a fifth is added for decoding
# and work space.
_BYTES_PER_PIXEL = {"zooming_slowmo": 70_000, "videoinr": 40_000}
_MEMORY_SHARE = 0.5
# VideoINR is decoded in rows of about this many output pixels.
_CHUNK_PIXELS = 2**18


def check_request(model_name: str, *, space: float, time: int) -> None:
    """Checks that a network can enlarge `space` times and make `time` output frames of each.

    Raises:
      ValueError: it cannot.
    """
    if model_name not in WINDOW_SIZES:
        raise ValueError(f"model {model_name!r} is not one of {sorted(WINDOW_SIZES)}")
    if model_name == "zooming_slowmo":
        if space != 4:
            raise ValueError(
                f"space={space:g}: zooming_slowmo enlarges 4 times only; use a videoinr checkpoint"
            )
        if time not in (1, 2):
            raise ValueError(
                f"time={time}: zooming_slowmo makes 1 or 2 frames of each; use a videoinr checkpoint"
            )
    if not (math.isfinite(space) and space >= 1):
        raise ValueError(f"space={space:g} must be a number of at least 1")
    if time < 1:
        raise ValueError(f"time={time} must be at least 1")


def output_size(height: int, width: int, space: float) -> tuple[int, int]:
    """Returns (H', W'), rounded to whole pixels, halves upwards."""
    return math.floor(height * space + 0.5), math.floor(width * space + 0.5)


class Predictor:
    """A network with its parameters, compiled per shape.

    Args:
      model_name: 'zooming_slowmo' or 'videoinr'.
      model: the flax module.
      params: its parameters.
      tile: longest side of a tile in low-resolution pixels; 0 takes frames whole, None chooses by memory.

    Attributes:
      window_size: frames `predict` takes.
      tile: as given; halved whenever the device runs out of memory.
    """

    def __init__(self, model_name: str, model: nn.Module, params: Any, *, tile: int | None = None):
        if tile is not None and tile != 0 and tile < SMALLEST_TILE:
            raise ValueError(f"tile={tile} must be 0 (whole frames) or at least {SMALLEST_TILE}")
        self.window_size = WINDOW_SIZES[model_name]
        self.tile = tile
        self._name = model_name
        self._model = model
        self._params = jax.device_put(params)
        renders = {"zooming_slowmo": self._render_zooming_slowmo, "videoinr": self._render_videoinr}
        self._render = renders[model_name]

    def predict(
        self, frames: np.ndarray, times: Sequence[float], *, space: float, rounded: bool = True
    ) -> np.ndarray:
        """Renders instants of a window.

        Args:
          frames: [N, H, W, 3], uint8, or float32 in units of [0, 1]. N is `window_size`; Zooming Slow-Mo takes
            any N from 2.
          times: T instants in frames after the first, in [0, N - 1]; multiples of 1/2 for Zooming Slow-Mo.
          space: output over input size, at least 1; 4 for Zooming Slow-Mo.
          rounded: return 8 bits, clamped and rounded, instead of what the network says.

        Returns:
          [T, H', W', 3], uint8 or (not `rounded`) float32 in units of [0, 1]; see `output_size`.

        Raises:
          ValueError: an argument does not fit the network.
        """
        count = max(2, frames.shape[0]) if self._name == "zooming_slowmo" else self.window_size
        is_image = frames.dtype in (np.uint8, np.float32) and frames.ndim == 4 and frames.shape[3] == 3
        if not is_image or frames.shape[0] != count:
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}; they must be uint8 or float32 [{count}, H, W, 3]"
            )
        if not all(0 <= t <= count - 1 for t in times):
            raise ValueError(f"times={list(map(float, times))} must lie in [0, {count - 1}]")
        check_request(self._name, space=space, time=1)
        height, width = frames.shape[1:3]
        if self.tile is None:
            self.tile = choose_tile(self._name, height, width)
        while True:
            try:
                return tiling.render_tiled(
                    lambda part, size: self._render(part, times, size, rounded),
                    frames,
                    out_size=output_size(height, width, space),
                    tile=self.tile,
                )
            except jax.errors.JaxRuntimeError as error:
                self.tile = smaller_tile(self.tile, height, width, error)

    def _render_zooming_slowmo(self, frames, times, out_size, rounded):
        half_steps = [t * 2 for t in times]
        if any(step != int(step) for step in half_steps):
            raise ValueError(f"times={list(map(float, times))} must be multiples of 1/2 for zooming_slowmo")
        padded = pad_to_multiple(frames)
        rendered = _apply_zooming_slowmo(self._model, self._params, padded, rounded=rounded)
        return np.asarray(rendered)[[int(step) for step in half_steps], : out_size[0], : out_size[1]]

    def _render_videoinr(self, frames, times, out_size, rounded):
        padded = pad_to_multiple(frames)
        # Coordinates span the padded frame, so it is rendered whole at the same scale and cropped. Rounding
        # its size leaves at most half an output pixel of mismatch at the far border, none at whole scales.
        sides = zip(padded.shape[1:3], out_size, frames.shape[1:3], strict=True)
        full = tuple(round(side * out / unpadded) for side, out, unpadded in sides)
        chunk_rows = min(max(1, _CHUNK_PIXELS // full[1]), full[0])
        encoded = _encode_videoinr(self._model, self._params, padded)
        result = np.empty((len(times), *out_size, 3), np.uint8 if rounded else np.float32)
        for i, time in enumerate(times):
            image = _decode_videoinr(
                self._model,
                self._params,
                encoded,
                np.float32(time),
                out_size=full,
                chunk_rows=chunk_rows,
                rounded=rounded,
            )
            result[i] = np.asarray(image)[: out_size[0], : out_size[1]]
        return result


def pad_to_multiple(frames: np.ndarray) -> np.ndarray:
    """Repeats the last rows and columns of [N, H, W, 3] until both sides are multiples of four."""
    pad = [(0, -side % tiling.MULTIPLE) for side in frames.shape[1:3]]
    return np.pad(frames, ((0, 0), *pad, (0, 0)), mode="edge") if any(p[1] for p in pad) else frames


def choose_tile(model_name: str, height: int, width: int) -> int:
    """Returns the tile for frames of a size: 0, whole, if half of the device's memory suffices."""
    pixels = _MEMORY_SHARE * available_memory() / _BYTES_PER_PIXEL[model_name]
    if height * width <= pixels:
        return 0
    return max(SMALLEST_TILE, int(math.sqrt(pixels)) // 16 * 16)


def available_memory() -> float:
    """Returns the bytes of the first device's memory, or of the machine's where the device does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30


def smaller_tile(tile: int, height: int, width: int, error: jax.errors.JaxRuntimeError) -> int:
    """Returns half the tile after an out-of-memory error, and says so; raises any other error again.

    Args:
      tile: what was tried, 0 for the whole frame.
      height: rows of the frame.
      width: columns of the frame.
      error: from the device.
    """
    if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
        raise error
    tried = tile or max(height, width)
    smaller = max(SMALLEST_TILE, tried // 2 // tiling.MULTIPLE * tiling.MULTIPLE)
    if smaller >= tried:
        raise error
    print(f"out of memory at tile {tried}: going on with tiles of {smaller} pixels", file=sys.stderr)
    return smaller


def to_unit(frames: jax.Array) -> jax.Array:
    """uint8 to float32 in [0, 1]; float32 stays."""
    return frames.astype(jnp.float32) / 255.0 if frames.dtype == jnp.uint8 else frames


def to_uint8(frames: jax.Array) -> jax.Array:
    """[0, 1] to uint8, clamped, rounded to nearest, halves upwards."""
    return jnp.floor(jnp.clip(frames, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=0, static_argnames="rounded")
def _apply_zooming_slowmo(model, params, frames, *, rounded):
    """[N, H, W, 3] -> [2N - 1, 4H, 4W, 3]."""
    rendered = model.apply({"params": params}, to_unit(frames)[None])[0]
    return to_uint8(rendered) if rounded else rendered


@functools.partial(jax.jit, static_argnums=0)
def _encode_videoinr(model, params, frames):
    """[2, H, W, 3] -> whatever the model's `decode` takes."""
    return model.apply({"params": params}, to_unit(frames)[None], method="encode")


@functools.partial(jax.jit, static_argnums=0, static_argnames=("out_size", "chunk_rows", "rounded"))
def _decode_videoinr(model, params, encoded, time, *, out_size, chunk_rows, rounded):
    """One instant in [0, 1] -> [H', W', 3]."""
    times = jnp.reshape(time, (1, 1))
    rendered = model.apply(
        {"params": params}, encoded, times, out_size=out_size, chunk_rows=chunk_rows, method="decode"
    )
    return to_uint8(rendered[0, 0]) if rounded else rendered[0, 0]
