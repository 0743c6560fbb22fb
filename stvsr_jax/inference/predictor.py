"""Runs a network on one window of frames: numpy in, numpy out, 8 or 16 bits or float.

Frames are padded to multiples of four by repeating their edges and the outputs cropped; large ones go through
in tiles. Every shape is compiled once.
"""

import copy
import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax import models
from stvsr_jax.inference import planes, programs, tile_size, tiling
from stvsr_jax.inference.number_format import DTYPES
from stvsr_jax.weights import sources
from stvsr_jax.weights.digest import params_digest


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
      dtype: of the network, a key of `DTYPES`.
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
        self._given = params  # fetching them from a device again takes longer
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

    def maker(self) -> Callable[[], "Predictor"]:
        """Returns what makes the same network in another process, on its first device; can be pickled."""
        params = jax.tree.map(np.asarray, self._given)
        return functools.partial(Predictor, self.name, self._model, params, ensemble=self._is_ensemble)

    @property
    def dtype(self) -> str:  # networks of tests may have none
        return np.dtype(getattr(self._model, "dtype", jnp.float32)).name

    def with_dtype(self, dtype: str) -> "Predictor":
        """Returns the same network, which shares the parameters, in another of `DTYPES`."""
        if dtype == self.dtype:
            return self
        other = copy.copy(self)
        other.__dict__.pop("identity", None)
        other._model = self._model.clone(dtype=DTYPES[dtype])
        return other

    @functools.cached_property
    def identity(self) -> str:
        """A digest of the network, its settings and its parameters."""
        facts = f"{self._model!r} {self._is_ensemble} {params_digest(self._given)}"
        return hashlib.sha256(facts.encode()).hexdigest()

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
        if (space is None) == (out_size is None):
            raise ValueError(f"exactly one of space={space} and out_size={out_size} has to be given")
        self._check_frames(frames[None], [times])
        if out_size is None:
            check_request(self.name, space=space, time=1)
            out_size = output_size(*frames.shape[1:3], space)
        settings = {"out_size": out_size, "rounded": rounded, "device": device}
        rendered = self.predict_windows(frames[None], [times], **settings)
        return np.require(rendered[0], requirements="W")  # what comes from a CPU device cannot be written to

    def predict_windows(
        self,
        frames: np.ndarray,
        times: Sequence[Sequence[float]],
        *,
        out_size: tuple[int, int],
        rounded: bool = True,
        device: int = 0,
        instants: int | None = None,
        layout: planes.Layout | None = None,
    ) -> Sequence[np.ndarray]:
        """Renders instants of several windows at once, which small frames need to fill a device.

        Args:
          frames: [B, N, H, W, 3], as `predict` takes.
          times: for each window T instants, as `predict` takes.
          out_size: (H', W').
          rounded: as of `predict`.
          device: number in `devices`.
          instants: how many outputs an input frame usually has, so that all windows use one program; see
            `programs.start`. None: T.
          layout: of planes for a video encoder, into which frames that need no tiles are packed on the device.

        Returns:
          For each window [T, H', W', 3], see `predict`, or [T, n] of packed planes; perhaps read-only.

        Raises:
          ValueError: an argument does not fit the network.
        """
        self._check_frames(frames, times)
        height, width = frames.shape[2:4]
        check_size(self.name, height, width, out_size)
        dtype = (np.uint16 if frames.dtype == np.uint16 else np.uint8) if rounded else np.float32
        form = layout or dtype
        while True:
            tile = self.tile
            if tile is None:
                tile = self.tile = tile_size.choose_tile(self.name, height, width)
            try:
                if tiling.is_whole(height, width, tile):
                    place = tiling.Place(out_size, (0, 0), out_size)
                    return self._render_part(frames, times, place, form, device, instants)
                return [
                    self._render_tiled(*window, out_size, tile, dtype, device, instants)
                    for window in zip(frames, times, strict=True)
                ]
            except jax.errors.JaxRuntimeError as error:
                if len(frames) > 1 and tile_size.is_out_of_memory(error):
                    return [
                        self.predict_windows(
                            frames[i : i + 1], times[i : i + 1], out_size=out_size, rounded=rounded,
                            device=device, instants=instants, layout=layout,
                        )[0]
                        for i in range(len(frames))
                    ]  # fmt: skip
                smaller = tile_size.smaller_tile(tile, height, width, error)
                self.tile = min(smaller, self.tile or smaller)  # another device may have been there before

    def start_windows(
        self,
        frames: np.ndarray,
        times: Sequence[Sequence[float]],
        *,
        out_size: tuple[int, int],
        device: int = 0,
        instants: int | None = None,
        layout: planes.Layout | None = None,
    ) -> list[jax.Array]:
        """Starts what `predict_windows` does with whole frames, and leaves the results on the device."""
        place = tiling.Place(out_size, (0, 0), out_size)
        return self._start(frames, times, place, layout or np.uint8, device, instants)

    def _check_frames(self, frames, times):
        contract = self._contract
        is_image = frames.dtype in (np.uint8, np.uint16, np.float32) and frames.ndim == 5
        count = self.window_size
        if contract.takes_any_window and is_image:
            count = max(2, frames.shape[1])
        if not is_image or frames.shape[1] != count or frames.shape[4] != 3:
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape[1:]}; they must be uint8, uint16 or float32 "
                f"[{count}, H, W, 3]"
            )
        for row in times:
            if not all(0 <= t <= count - 1 for t in row):
                raise ValueError(f"times={list(map(float, row))} must lie in [0, {count - 1}]")
            if not all(map(contract.can_render, row)):
                raise ValueError(
                    f"times={list(map(float, row))} must be multiples of 1/{contract.steps} for {self.name}"
                )

    def _render_tiled(self, frames, times, out_size, tile, dtype, device, instants):
        """Renders one window, [N, H, W, 3] -> [T, H', W', 3]."""

        def render(part, size, origin):
            place = tiling.Place(size, origin, out_size)
            return self._render_part(part[None], [times], place, dtype, device, instants)[0]

        return tiling.render_tiled(render, frames, out_size=out_size, tile=tile)

    def _render_part(self, frames, times, place, form, device, instants):
        if not self._is_ensemble:
            return self._render(frames, times, place, form, device, instants)
        total = 0.0
        for rows in (1, -1):
            for columns in (1, -1):
                flipped = np.ascontiguousarray(frames[:, :, ::rows, ::columns])
                mirrored = place.flip(rows, columns)
                rendered = self._render(flipped, times, mirrored, np.float32, device, instants)
                total = total + rendered[:, :, ::rows, ::columns]
        return np.asarray(programs.finish(total / 4, form))

    def _render(self, frames, times, place, form, device, instants):
        """[B, N, h, w, 3] -> [B, T, h', w', 3], or [B, T, n] of planes."""
        parts = self._start(frames, times, place, form, device, instants)
        for part in parts:  # they are copied while the next are computed
            part.copy_to_host_async()
        count = len(times[0])
        if len(parts) == 1:
            return np.asarray(parts[0])[:, :count]
        return np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :count]

    def _start(self, frames, times, place, form, device, instants):
        return programs.start(
            self._model,
            self._params[device],
            self._contract,
            frames,
            times,
            place=place,
            home=self.devices[device],
            form=form,
            instants=instants,
        )
