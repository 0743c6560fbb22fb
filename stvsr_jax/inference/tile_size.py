"""How large a tile may be: checked, chosen by the device's memory, and halved where that was too much."""

import math
import sys

import jax

from stvsr_jax import models
from stvsr_jax.inference import host_memory, tiling
from stvsr_jax.runtime import topology

SMALLEST_TILE = 2 * tiling.OVERLAP

# How much of the device's memory one window may take.
_MEMORY_SHARE = 0.5

# Pixels of the frames that go to a device together, and windows.
_WINDOW_PIXELS = 2**18
_MOST_WINDOWS = 8


def check_tile(tile: int | None) -> None:
    """Checks the longest side of a tile: None, 0 or large enough to overlap its neighbours.

    Raises:
      ValueError: it is not.
    """
    if tile is not None and tile != 0 and tile < SMALLEST_TILE:
        raise ValueError(f"tile={tile} must be 0 (whole frames) or at least {SMALLEST_TILE}")


def choose_tile(model_name: str, height: int, width: int) -> int:
    """Returns the tile for frames of a size: 0, whole, if half of the device's memory suffices."""
    pixels = _MEMORY_SHARE * available_memory() / models.contract_of(model_name).bytes_per_pixel
    if height * width <= pixels:
        return 0
    return max(SMALLEST_TILE, int(math.sqrt(pixels)) // 16 * 16)


def choose_batch(window_size: int, height: int, width: int, platform: str) -> int:
    """Returns how many windows go to a device together: one on a CPU, elsewhere enough to keep it busy."""
    if platform == "cpu":
        return 1
    return max(1, min(_MOST_WINDOWS, _WINDOW_PIXELS // (window_size * height * width)))


def available_memory() -> float:
    """Returns the bytes of the first device's memory, or of the machine's where the device has none of its own."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return topology.memory_of(device.device_kind) or host_memory.available_memory()


def is_out_of_memory(error: jax.errors.JaxRuntimeError) -> bool:
    """Returns whether the device had too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def smaller_tile(tile: int, height: int, width: int, error: jax.errors.JaxRuntimeError) -> int:
    """Returns half the tile after an out-of-memory error, and says so; raises any other error again.

    Args:
      tile: what was tried, 0 for the whole frame.
      height: rows of the frame.
      width: columns of the frame.
      error: from the device.
    """
    if not is_out_of_memory(error):
        raise error
    tried = tile or max(height, width)
    smaller = max(SMALLEST_TILE, tried // 2 // tiling.MULTIPLE * tiling.MULTIPLE)
    if smaller >= tried:
        raise error
    print(f"out of memory at tile {tried}: going on with tiles of {smaller} pixels", file=sys.stderr)
    return smaller
