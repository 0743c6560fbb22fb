"""Scores of a model, and of the bicubic baseline beside it, on held-out windows."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from stvsr_jax import metrics, models, ops
from stvsr_jax.runtime import sharding


def bicubic_blend(frames: jax.Array, times: jax.Array, *, out_size: tuple[int, int]) -> jax.Array:
    """Enlarges bicubically and blends the two neighbouring frames linearly in time.

    Args:
      frames: [B, N, H, W, 3] in [0, 1].
      times: [B, T] in [0, 1] from the first to the last frame.
      out_size: (H', W').

    Returns:
      [B, T, H', W', 3] float32.
    """
    large = ops.imresize(frames, out_size=out_size)
    return ops.interpolate_frames(large, times * (frames.shape[1] - 1))


def make_eval_step(model: nn.Module, mesh: Mesh) -> Callable[[Any, Mapping[str, jax.Array]], dict]:
    """Returns a jitted function (params, batch) -> {name: [B, T] PSNR of Y in dB}, on every device."""

    def step(params, batch):
        target = batch["target"]
        out_size = target.shape[2:4]
        prediction = models.render(model, params, batch["frames"], batch["times"], out_size=out_size)
        baseline = bicubic_blend(batch["frames"], batch["times"], out_size=out_size)
        return {
            "psnr_y": metrics.psnr_y(prediction, target),
            "psnr_y_bicubic": metrics.psnr_y(baseline, target),
        }

    return sharding.jit_on_rows(step, mesh)


def score(eval_step: Callable, params: Any, batches: Iterable[Mapping[str, np.ndarray]], mesh: Mesh) -> dict:
    """Averages an eval step over batches.

    Args:
      eval_step: from `make_eval_step`.
      params: of the model.
      batches: of this process' rows, all of one size.
      mesh: the devices.

    Returns:
      {metric: mean in dB over all frames of all windows}. Frames that some metric finds equal to their target, as the
      baseline does black ones, are left out of every mean: one of them would make it infinite. Without any others
      the means are infinite.

    Raises:
      ValueError: there are no batches.
    """
    scores = [jax.device_get(eval_step(params, sharding.to_global(batch, mesh))) for batch in batches]
    if not scores:
        raise ValueError("there are no held-out windows to score")
    flat = {name: np.concatenate([np.ravel(s[name]) for s in scores]) for name in scores[0]}
    counts = ~np.any([np.isposinf(values) for values in flat.values()], axis=0)
    if not counts.any():
        counts[:] = True
    return {name: float(np.mean(values[counts])) for name, values in flat.items()}
