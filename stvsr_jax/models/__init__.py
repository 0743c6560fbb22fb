"""The networks, by name."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax.models.contract import Contract
from stvsr_jax.models.videoinr import VideoINR
from stvsr_jax.models.zooming_slowmo import ZoomingSlowMo

MODELS = {"zooming_slowmo": ZoomingSlowMo, "videoinr": VideoINR}
# What matrix products can be computed in, by name.
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def contract_of(name: str) -> Contract:
    """Returns what a network can do.

    Raises:
      ValueError: unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not one of {sorted(MODELS)}")
    return MODELS[name].contract


def list_free() -> list[str]:
    """Returns the names of the networks that render any instant at any scale."""
    return sorted(name for name in MODELS if contract_of(name).is_free)


def build(name: str, /, **kwargs: Any) -> nn.Module:
    """Returns a network; without further arguments it has the published sizes.

    Args:
      name: a key of MODELS.
      **kwargs: fields of the module (features, front_blocks, back_blocks, groups, remat, dtype, ...).

    Raises:
      ValueError: unknown name or field, or fields that do not fit each other.
    """
    contract = contract_of(name)
    fields = {key for key in MODELS[name].__dataclass_fields__ if key not in ("parent", "name")}
    unknown = set(kwargs) - fields
    if unknown:
        raise ValueError(f"model {name!r} has no field {sorted(unknown)}; its fields are {sorted(fields)}")
    # Modules are hashed; a config or a checkpoint may bring lists.
    kwargs = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
    model = MODELS[name](**kwargs)
    contract.check_fields(model)
    return model


def init_params(model: nn.Module, key: jax.Array) -> Any:
    """Returns fresh parameters of a network."""
    contract = model.contract
    # The parameters depend on no size of the input: the smallest is the fastest.
    times = 1 if contract.steps is None else contract.count_instants(2)
    side = 8 * (contract.scale or 1)
    frames = jnp.zeros((1, 2, 8, 8, 3))
    return model.init(key, frames, jnp.zeros((1, times)), out_size=(side, side))["params"]


def render(
    model: nn.Module,
    params: Any,
    frames: jax.Array,
    times: jax.Array,
    *,
    out_size: tuple[int, int],
    chunk_rows: int | None = None,
) -> jax.Array:
    """Runs a network on a batch of the training pipeline; see `contract`.

    Args:
      model: from `build`.
      params: its parameters.
      frames: [B, N, H, W, 3] in [0, 1].
      times: [B, T] in [0, 1], instants of the target.
      out_size: (H', W') of the target.
      chunk_rows: rows of the output rendered at a time.

    Returns:
      [B, T, H', W', 3] float32.

    Raises:
      ValueError: the network cannot do that.
    """
    contract = model.contract
    _, count, height, width, _ = frames.shape
    asked, instants, size = times.shape[1], times.shape[1], tuple(out_size)
    if contract.steps is not None:
        instants = contract.count_instants(count)
    if contract.scale is not None:
        size = (contract.scale * height, contract.scale * width)
    if (asked, tuple(out_size)) != (instants, size):
        raise ValueError(
            f"{contract.title} makes {instants} frames of {size[0]}x{size[1]} from {count} of {height}x{width}, "
            f"not {asked} of {out_size[0]}x{out_size[1]}"
        )
    return model.apply({"params": params}, frames, times, out_size=out_size, chunk_rows=chunk_rows)


__all__ = [
    "DTYPES",
    "MODELS",
    "VideoINR",
    "ZoomingSlowMo",
    "build",
    "contract_of",
    "init_params",
    "list_free",
    "render",
]
