"""Pictures of a held-out window: the input, enlarged bicubically, by the model, and the target, side by side."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from stvsr_jax import models
from stvsr_jax.runtime import sharding
from stvsr_jax.training import validation


def make_panel_step(model: nn.Module, mesh: Mesh) -> Callable[[Any, Mapping[str, jax.Array]], jax.Array]:
    """Returns a jitted function (params, batch) -> panels [B, H', 4 W', 3] uint8 of an instant between frames."""

    def step(params, batch):
        frames, times, target = batch["frames"], batch["times"], batch["target"]
        out_size = target.shape[2:4]
        # Every second instant of Zooming Slow-Mo is given: take the one in between that is nearest the middle.
        which = min(target.shape[1] - 1, target.shape[1] // 2 | 1)
        prediction = models.render(model, params, frames, times, out_size=out_size)
        bicubic = validation.bicubic_blend(frames, times, out_size=out_size)
        before = jnp.floor(times[:, which] * (frames.shape[1] - 1)).astype(jnp.int32)
        given = jax.vmap(lambda clip, index: clip[index])(frames, before)
        pixels = jax.image.resize(given, (given.shape[0], *out_size, 3), "nearest")
        row = jnp.concatenate([pixels, bicubic[:, which], prediction[:, which], target[:, which]], axis=2)
        return jnp.round(255.0 * jnp.clip(row, 0.0, 1.0)).astype(jnp.uint8)

    return sharding.jit_on_rows(step, mesh)


def render(
    panel_step: Callable, params: Any, batches: Iterable[Mapping[str, np.ndarray]], mesh: Mesh, *, count: int
) -> Iterator[np.ndarray]:
    """Yields `count` panels [H', 4 W', 3] uint8 of the first windows, as far as there are so many."""
    for batch in batches:
        for panel in jax.device_get(panel_step(params, sharding.to_global(batch, mesh))):
            if count == 0:
                return
            count -= 1
            yield panel
