"""The two networks, by name."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax.models.videoinr import VideoINR
from stvsr_jax.models.zooming_slowmo import ZoomingSlowMo

MODELS = {"zooming_slowmo": ZoomingSlowMo, "videoinr": VideoINR}


def build(name: str, /, **kwargs) -> nn.Module:
    """Returns a network; without further arguments it has the published sizes.

    Args:
      name: 'zooming_slowmo' or 'videoinr'.
      **kwargs: fields of the module (features, front_blocks, back_blocks, groups, remat, dtype, ...).

    Raises:
      ValueError: unknown name or field, or features that do not divide by the offset groups.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not one of {sorted(MODELS)}")
    fields = {key for key in MODELS[name].__dataclass_fields__ if key not in ("parent", "name")}
    unknown = set(kwargs) - fields
    if unknown:
        raise ValueError(f"model {name!r} has no field {sorted(unknown)}; its fields are {sorted(fields)}")
    # Modules are hashed; a config or a checkpoint may bring lists.
    kwargs = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
    model = MODELS[name](**kwargs)
    if model.features % model.groups:
        raise ValueError(f"features={model.features} must divide by the groups={model.groups} of the offsets")
    return model


def init_params(model: nn.Module, key: jax.Array) -> Any:
    """Returns fresh parameters of a network."""
    frames = jnp.zeros((1, 2, 8, 8, 3))
    if isinstance(model, VideoINR):
        return model.init(key, frames, jnp.zeros((1, 1)), out_size=(8, 8))["params"]
    return model.init(key, frames)["params"]


def render(
    model: nn.Module,
    params: Any,
    frames: jax.Array,
    times: jax.Array,
    *,
    out_size: tuple[int, int],
    chunk_rows: int | None = None,
) -> jax.Array:
    """Runs either network on a batch of the training pipeline.

    Args:
        model: from `build`.
        params: its parameters.
        frames: [B, N, H, W, 3] in [0, 1].
        times: [B, T] instants of the target; Zooming Slow-Mo renders its fixed 2N - 1.
        out_size: (H', W') of the target.
        chunk_rows: see `VideoINR.decode`; Zooming Slow-Mo has no use for it.

    Returns:
        [B, T, H', W', 3] float32.

    Raises:
        ValueError: Zooming Slow-Mo is asked for other than 2N - 1 instants of (4H, 4W).
    """
    if isinstance(model, VideoINR):
        return model.apply({"params": params}, frames, times, out_size=out_size, chunk_rows=chunk_rows)
    _, count, height, width, _ = frames.shape
    if times.shape[1] != 2 * count - 1 or tuple(out_size) != (4 * height, 4 * width):
        raise ValueError(
            f"zooming_slowmo makes {2 * count - 1} frames of {4 * height}x{4 * width} from {count} of "
            f"{height}x{width}, not {times.shape[1]} of {out_size[0]}x{out_size[1]}"
        )
    return model.apply({"params": params}, frames)


__all__ = ["MODELS", "VideoINR", "ZoomingSlowMo", "build", "init_params", "render"]
