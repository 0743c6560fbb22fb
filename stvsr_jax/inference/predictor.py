"""Runs a network on one window of frames: numpy in, numpy out, 8 or 16 bits or float.

Frames are padded to multiples of four by repeating their edges and the outputs cropped; large ones go through
in tiles. Every shape is compiled once.
"""

import dataclasses
import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax import models
from stvsr_jax.inference import tile_size, tiling
from stvsr_jax.ops.devices import on_one_device
from stvsr_jax.runtime import compilation
from stvsr_jax.weights import sources

# What networks compute in. float16 is as fast as bfloat16 on a GPU and rounds an eighth as much, enough for networks
# that are only run; it has no range to train in.
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}

# An instant is decoded in rows of about this many output pixels.
_CHUNK_PIXELS = 2**18


def check_request(model_name: str, *, space: float, time: int) -> None:
    """Checks that a network can enlarge `space` times and make `time` output frames of each.

    Raises:
      ValueError: it cannot.
    """
    contract = models.contract_of(model_name)
    if contract.scale not in (None, space):
        raise ValueError(
            f"space={space:g}: {model_name} enlarges {contract.scale} times only{suggest_others()}"
        )
    if not contract.can_make(space=space, time=time):
        raise ValueError(
            f"time={time}: {model_name} makes {contract.name_counts()} of each{suggest_others()}"
        )
    if not (math.isfinite(space) and space >= 1):
        raise ValueError(f"space={space:g} must be a number of at least 1")
    if time < 1:
        raise ValueError(f"time={time} must be at least 1")


def output_size(height: int, width: int, space: float) -> tuple[int, int]:
    """Returns (H', W'), rounded to whole pixels, halves upwards."""
    return math.floor(height * space + 0.5), math.floor(width * space + 0.5)


def check_size(model_name: str, height: int, width: int, out_size: tuple[int, int]) -> None:
    """Checks that a network can make frames of `out_size` (H', W') from those of `height` x `width`.

    Raises:
      ValueError: it cannot.
    """
    asked = f"size={out_size[1]}x{out_size[0]}"
    scale = models.contract_of(model_name).scale
    if scale is not None and tuple(out_size) != (scale * height, scale * width):
        only = f"{model_name} makes {scale * width}x{scale * height} of {width}x{height}"
        raise ValueError(f"{asked}: {only}{suggest_others()}")
    if out_size[0] < height or out_size[1] < width:
        raise ValueError(f"{asked} is smaller than the input's {width}x{height}")


def suggest_others() -> str:
    """Returns the end of an error line on what a network cannot do: which networks can."""
    return f"; use {' or '.join(free)}" if (free := models.list_free()) else ""


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a part lies in the output, (y, x) in output pixels."""

    size: tuple[int, int]
    origin: tuple[int, int]
    whole_size: tuple[int, int]

    def flip(self, rows, columns):
        """Return the place when the axes that are -1 run backwards."""
        sides = zip((rows, columns), self.size, self.origin, self.whole_size, strict=True)
        origin = tuple(o if step > 0 else whole - o - size for step, size, o, whole in sides)
        return dataclasses.replace(self, origin=origin)


class Predictor:
    """A network with its parameters, compiled per shape.

    Args:
      model_name: a key of `models.MODELS`.
      model: the flax module.
      params: its parameters.
      tile: longest side of a tile in low-resolution pixels; 0 takes frames whole, None chooses by memory.
      ensemble: render every window also mirrored, upside down and both, and take the mean of the four.
      devices: each gets the parameters and can run windows; None is the first of this process.

    Attributes:
      name: the model's.
      window_size: frames `predict` takes.
      tile: as given; halved whenever the device runs out of memory.
      devices: as given.
    """

    def __init__(
        self,
        model_name: str,
        model: nn.Module,
        params: Any,
        *,
        tile: int | None = None,
        ensemble: bool = False,
        devices: Sequence[jax.Device] | None = None,
    ):
        tile_size.check_tile(tile)
        self.name = model_name
        self._contract = models.contract_of(model_name)
        self.window_size = self._contract.window_size
        self.tile = tile
        self.devices = list(devices or jax.local_devices()[:1])
        self._is_ensemble = ensemble
        self._model = model
        self._params = [jax.device_put(params, device) for device in self.devices]

    @classmethod
    def from_checkpoint(
        cls, directory: str | pathlib.Path, *, weights: str = "ema", dtype: Any = None, **kwargs: Any
    ) -> "Predictor":
        """Loads a training run or converted weights.

        Args:
          directory: see `checkpoint.load_for_inference`.
          weights: see `checkpoint.load_for_inference`.
          dtype: number format of the network, None for float32.
          **kwargs: `tile`, `ensemble`, `devices`.

        Raises:
          ValueError: there is no checkpoint.
        """
        from stvsr_jax import checkpoint  # heavy, and the class does not need it

        return cls._from_restored(checkpoint.load_for_inference(directory, weights=weights), dtype, kwargs)

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, *, weights: str = "ema", dtype: Any = None, **kwargs: Any
    ) -> "Predictor":
        """Loads weights that ship with the package, or any others.

        Args:
          source: 'zooming_slowmo', 'videoinr', 'video', a path, or 'hf://USER/REPO'; see `weights.sources`.
          weights: of a training run, see `checkpoint.load_for_inference`.
          dtype: number format of the network, None for float32.
          **kwargs: `tile`, `ensemble`, `devices`.

        Raises:
          ValueError: there are no such weights, or they are damaged.
        """
        return cls._from_restored(sources.load(source, weights=weights), dtype, kwargs)

    @classmethod
    def _from_restored(cls, loaded, dtype, kwargs):
        fields = {**loaded.model_kwargs, **({"dtype": dtype} if dtype else {})}
        return cls(loaded.model_name, models.build(loaded.model_name, **fields), loaded.params, **kwargs)

    @functools.cached_property
    def identity(self) -> str:
        """A digest of the network, its settings and its parameters."""
        digest = hashlib.sha256(f"{self._model!r} {self._is_ensemble}".encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self._params[0]):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def predict(
        self,
        frames: np.ndarray,
        times: Sequence[float],
        *,
        space: float | None = None,
        out_size: tuple[int, int] | None = None,
        rounded: bool = True,
        device: int = 0,
    ) -> np.ndarray:
        """Renders instants of a window.

        Args:
          frames: [N, H, W, 3], uint8, uint16, or float32 in units of [0, 1]. N is `window_size`, or any
            number from 2 if the network `takes_any_window`.
          times: T instants in frames after the first, in [0, N - 1], that the network `can_render`.
          space: output over input size, at least 1, of the network's `scale` if it has one.
          out_size: (H', W') instead of `space`.
          rounded: return integers, clamped and rounded, instead of what the network says.
          device: number in `devices`.

        Returns:
          [T, H', W', 3], uint16 for uint16, uint8 for other frames, or (not `rounded`) float32 in units of
          [0, 1]; see `output_size`.

        Raises:
          ValueError: an argument does not fit the network.
        """
        contract = self._contract
        count = max(2, frames.shape[0]) if contract.takes_any_window else self.window_size
        is_image = frames.dtype in (np.uint8, np.uint16, np.float32) and frames.ndim == 4
        if not is_image or frames.shape[0] != count or frames.shape[3] != 3:
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}; they must be uint8, uint16 or float32 "
                f"[{count}, H, W, 3]"
            )
        if not all(0 <= t <= count - 1 for t in times):
            raise ValueError(f"times={list(map(float, times))} must lie in [0, {count - 1}]")
        if not all(map(contract.can_render, times)):
            raise ValueError(
                f"times={list(map(float, times))} must be multiples of 1/{contract.steps} for {self.name}"
            )
        height, width = frames.shape[1:3]
        if (space is None) == (out_size is None):
            raise ValueError(f"exactly one of space={space} and out_size={out_size} has to be given")
        if out_size is None:
            check_request(self.name, space=space, time=1)
            out_size = output_size(height, width, space)
        check_size(self.name, height, width, out_size)
        dtype = (np.uint16 if frames.dtype == np.uint16 else np.uint8) if rounded else np.float32
        while True:
            tile = self.tile
            if tile is None:
                tile = self.tile = tile_size.choose_tile(self.name, height, width)
            try:
                return tiling.render_tiled(
                    lambda part, size, origin: self._render_part(
                        part, times, _Place(size, origin, out_size), dtype, device
                    ),
                    frames,
                    out_size=out_size,
                    tile=tile,
                )
            except jax.errors.JaxRuntimeError as error:
                smaller = tile_size.smaller_tile(tile, height, width, error)
                self.tile = min(smaller, self.tile or smaller)  # another device may have been there before

    def _render_part(self, frames, times, place, dtype, device):
        if not self._is_ensemble:
            return self._render(frames, times, place, dtype, device)
        total = 0.0
        for rows in (1, -1):
            for columns in (1, -1):
                flipped = np.ascontiguousarray(frames[:, ::rows, ::columns])
                rendered = self._render(flipped, times, place.flip(rows, columns), np.float32, device)
                total = total + rendered[:, ::rows, ::columns]
        return np.asarray(to_dtype(total / 4, dtype))

    def _render(self, frames, times, place, dtype, device):
        padded = pad_to_multiple(frames)
        full = padded_out_size(padded.shape[1:3], frames.shape[1:3], place.size)
        chunk_rows = min(max(1, _CHUNK_PIXELS // full[1]), full[0])
        grid = self._contract.make_grid(full, origin=place.origin, whole_size=place.whole_size)
        params = self._params[device]
        encoded = _encode(self._model, params, jax.device_put(padded, self.devices[device]))
        result = np.empty((len(times), *place.size, 3), dtype)
        for i, time in enumerate(times):
            image = _decode(
                self._model,
                params,
                encoded,
                np.float32(time / (len(frames) - 1)),  # 1: the last frame of the window
                grid,
                out_size=full,
                chunk_rows=chunk_rows,
                dtype=dtype,
            )
            result[i] = np.asarray(image)[: place.size[0], : place.size[1]]
        return result


def pad_to_multiple(frames: np.ndarray) -> np.ndarray:
    """Repeats the last rows and columns of [N, H, W, 3] until both sides are multiples of four."""
    pad = [(0, -side % tiling.MULTIPLE) for side in frames.shape[1:3]]
    return np.pad(frames, ((0, 0), *pad, (0, 0)), mode="edge") if any(p[1] for p in pad) else frames


def padded_out_size(
    padded: tuple[int, int], size: tuple[int, int], out_size: tuple[int, int]
) -> tuple[int, int]:
    """Returns the output size (H', W') of padded frames at the scale that takes frames of `size` to `out_size`.

    VideoINR's coordinates span the padded frame, so it is rendered whole and cropped. Rounding its size leaves at
    most half an output pixel of mismatch at the far border, none at whole scales.
    """
    sides = zip(padded, out_size, size, strict=True)
    return tuple(round(side * out / unpadded) for side, out, unpadded in sides)


def to_unit(frames: jax.Array) -> jax.Array:
    """Integers to float32 in [0, 1]; float32 stays."""
    if frames.dtype == jnp.float32:
        return frames
    return frames.astype(jnp.float32) / float(jnp.iinfo(frames.dtype).max)


def to_uint8(frames: jax.Array) -> jax.Array:
    """[0, 1] to uint8, clamped, rounded to nearest, halves upwards."""
    return to_dtype(frames, np.uint8)


def to_dtype(frames: jax.Array, dtype: Any) -> jax.Array:
    """[0, 1] to a type of integers like `to_uint8`; float32 stays as it is."""
    if dtype == np.float32:
        return frames
    largest = float(np.iinfo(dtype).max)
    return jnp.floor(jnp.clip(frames, 0.0, 1.0) * largest + 0.5).astype(dtype)


@functools.partial(compilation.jit, static_argnums=(0,))
@on_one_device
def _encode(model, params, frames):
    """[N, H, W, 3] -> whatever the model's `decode` takes."""
    return model.apply({"params": params}, to_unit(frames)[None], method="encode")


@functools.partial(compilation.jit, static_argnums=(0,), static_argnames=("out_size", "chunk_rows", "dtype"))
@on_one_device
def _decode(model, params, encoded, time, grid, *, out_size, chunk_rows, dtype):
    """One instant in [0, 1] -> [H', W', 3]."""
    times = jnp.reshape(time, (1, 1))
    rendered = model.apply(
        {"params": params},
        encoded,
        times,
        out_size=out_size,
        chunk_rows=chunk_rows,
        grid=grid,
        method="decode",
    )
    return to_dtype(rendered[0, 0], dtype)
