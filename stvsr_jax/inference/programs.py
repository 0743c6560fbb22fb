"""What runs on the device: integers in, the network, and the pictures that the host is given.

`finish` is the one place where the network's float RGB becomes those.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.inference import planes, tiling
from stvsr_jax.models.contract import Contract
from stvsr_jax.ops.devices import on_one_device
from stvsr_jax.runtime import compilation

# An instant is decoded in rows of about this many output pixels: small on a CPU, whose caches are, and on a TPU, so that
# what is made of them stays in VMEM; elsewhere a 720p frame at a time.
_CHUNK_PIXELS = {"cpu": 2**18, "tpu": 2**14}
_MOST_CHUNK_PIXELS = 2**20
# Output pixels of one program, whose float RGB is held together.
_PROGRAM_PIXELS = 2**25


def pad_to_multiple(frames: np.ndarray) -> np.ndarray:
    """Repeats the last rows and columns of [..., H, W, 3] until both sides are multiples of four."""
    pad = [(0, -side % tiling.MULTIPLE) for side in frames.shape[-3:-1]]
    if not any(after for _, after in pad):
        return frames
    return np.pad(frames, [(0, 0)] * (frames.ndim - 3) + [*pad, (0, 0)], mode="edge")


def padded_out_size(
    padded: tuple[int, int], size: tuple[int, int], out_size: tuple[int, int]
) -> tuple[int, int]:
    """Returns the output size (H', W') of padded frames at the scale that takes frames of `size` to `out_size`.

    VideoINR's coordinates span the padded frame, so it is rendered whole and cropped. Rounding its size leaves at
    most half an output pixel of mismatch at the far border, none at whole scales.
    """
    sides = zip(padded, out_size, size, strict=True)
    return tuple(round(side * out / unpadded) for side, out, unpadded in sides)


def chunk_rows(out_size: tuple[int, int], platform: str) -> int:
    """Returns how many rows of an instant of (H', W') are decoded at a time."""
    pixels = _CHUNK_PIXELS.get(platform, _MOST_CHUNK_PIXELS)
    most = min(max(1, pixels // out_size[1]), out_size[0])
    if platform != "tpu":
        return most
    # A last chunk that is not full takes copies of all rows.
    return next((rows for rows in range(most, most // 2, -1) if out_size[0] % rows == 0), most)


def most_instants(out_size: tuple[int, int], windows: int, platform: str) -> int:
    """Returns how many instants of (H', W') one program may render of each of some windows.

    On a CPU, which gains nothing by more, one: it rounds each as when it is rendered alone.
    """
    return 1 if platform == "cpu" else max(1, _PROGRAM_PIXELS // (out_size[0] * out_size[1] * windows))


def to_unit(frames: jax.Array) -> jax.Array:
    """Integers to float32 in [0, 1]; float32 stays."""
    if frames.dtype == jnp.float32:
        return frames
    return frames.astype(jnp.float32) / float(jnp.iinfo(frames.dtype).max)


def to_uint8(frames: jax.Array) -> jax.Array:
    """[0, 1] to uint8, clamped, rounded to nearest, halves upwards."""
    return finish(frames, np.uint8)


def finish(rgb: jax.Array, form: Any) -> jax.Array:
    """Makes of what the network says what the host is given.

    Args:
      rgb: [..., H', W', 3] float32 in [0, 1], not clamped.
      form: float32, as it is; another type of numbers, integers rounded as by `to_uint8`; or a `planes.Layout`, planes
        for a video encoder in one row, [..., n], half as many bytes or less.
    """
    if isinstance(form, planes.Layout):
        return planes.pack(rgb, form)
    if form == np.float32:
        return rgb
    largest = float(np.iinfo(form).max)
    return jnp.floor(jnp.clip(rgb, 0.0, 1.0) * largest + 0.5).astype(form)


@functools.partial(compilation.jit, static_argnums=(0,))
@on_one_device
def encode(model: Any, params: Any, frames: jax.Array) -> Any:
    """Returns what the model's `decode` takes, from [B, N, H, W, 3]."""
    return model.apply({"params": params}, to_unit(frames), method="encode")


@functools.partial(
    compilation.jit, static_argnums=(0,), static_argnames=("out_size", "kept_size", "rows", "form")
)
@on_one_device
def decode(
    model: Any,
    params: Any,
    encoded: Any,
    times: jax.Array,
    grid: Any,
    *,
    out_size: tuple[int, int],
    kept_size: tuple[int, int],
    rows: int,
    form: Any,
) -> jax.Array:
    """Renders instants.

    Args:
      model: the network.
      params: its parameters.
      encoded: from `encode`, of B windows.
      times: [B, T] float32 in [0, 1].
      grid: of the contract's `make_grid`.
      out_size: (H', W') of the padded frames.
      kept_size: (h', w') of its upper left part that is returned.
      rows: see `chunk_rows`.
      form: see `finish`.

    Returns:
      [B, T, h', w', 3], or [B, T, n] of planes.
    """
    rendered = model.apply(
        {"params": params}, encoded, times, out_size=out_size, chunk_rows=rows, grid=grid, method="decode"
    )
    return finish(rendered[:, :, : kept_size[0], : kept_size[1]], form)


def start(
    model: Any,
    params: Any,
    contract: Contract,
    frames: np.ndarray,
    times: Sequence[Sequence[float]],
    *,
    place: tiling.Place,
    home: jax.Device,
    form: Any,
    instants: int | None,
) -> list[jax.Array]:
    """Starts a part of some windows: one program encodes them, others decode the instants.

    Args:
      model: the network.
      params: its parameters, on the device `home`.
      contract: of the network.
      frames: [B, N, h, w, 3].
      times: for each window T instants, in frames after its first.
      place: where the part lies in the output.
      home: the device.
      form: see `finish`.
      instants: how many outputs an input frame usually has: a program decodes so many, if memory allows, or all of a
        window where the network renders them at once; fewer are filled up. None: T.

    Returns:
      On the device what `decode` returns of consecutive instants, which are T together, or a few more.
    """
    padded = pad_to_multiple(frames)
    full = padded_out_size(padded.shape[2:4], frames.shape[2:4], place.size)
    grid = contract.make_grid(full, origin=place.origin, whole_size=place.whole_size)
    # 1: the last frame of the window.
    unit = np.array([[np.float32(t / (frames.shape[1] - 1)) for t in row] for row in times])
    count = unit.shape[1]
    step = min(instants or count, most_instants(full, len(frames), home.platform))
    if contract.steps is not None:  # it has rendered all of them and only chooses
        # The last window has one more: with as many for all, there is one program.
        step = max(count, (frames.shape[1] - 1) * instants + 1) if instants else count
    unit = np.pad(unit, ((0, 0), (0, -count % step)), mode="edge")
    encoded = encode(model, params, jax.device_put(padded, home))
    return [
        decode(
            model,
            params,
            encoded,
            unit[:, first : first + step],
            grid,
            out_size=full,
            kept_size=place.size,
            rows=chunk_rows(full, home.platform),
            form=form,
        )
        for first in range(0, count, step)
    ]
