"""The optimiser and its learning-rate schedule."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam under cosine annealing with full restarts, as both recipes use it, and what may be added.

    Attributes:
      learning_rate: at the start of each cycle.
      final_learning_rate: at the end of each cycle.
      cycle_steps: steps of one cycle.
      b1: decay of the gradient average.
      b2: decay of the squared-gradient average.
      clip_norm: larger gradients are scaled down to this norm (of all together); 0 for none, as published.
      offset_rate: factor of the learning rate of the offset heads of deformable convolutions; published 1.
      ema_decay: of the average of the parameters that is scored and used for inference; 0 for none, as published.
    """

    learning_rate: float
    final_learning_rate: float
    cycle_steps: int
    b1: float
    b2: float
    clip_norm: float = 0.0
    offset_rate: float = 1.0
    ema_decay: float = 0.0

    def __post_init__(self):
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"optimizer: final_learning_rate={self.final_learning_rate} must lie between 0 and "
                f"learning_rate={self.learning_rate}"
            )
        if self.cycle_steps < 1:
            raise ValueError(f"optimizer: cycle_steps={self.cycle_steps} must be at least 1")
        for name in ("clip_norm", "offset_rate"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer: {name}={getattr(self, name)} must be at least 0")
        for name in ("b1", "b2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer: {name}={getattr(self, name)} must be from 0 to below 1")


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Returns step -> learning rate: cosine cycles, each from the full rate (SGDR, arXiv 1608.03983)."""
    cycle = optax.cosine_decay_schedule(
        config.learning_rate,
        config.cycle_steps,
        alpha=config.final_learning_rate / config.learning_rate if config.learning_rate else 0.0,
    )
    return lambda step: cycle(step % config.cycle_steps)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns clipping, Adam and the schedule. The structure of its state is the same for all configs."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2),
        optax.stateless(lambda updates, _: scale_offset_heads(updates, config.offset_rate)),
        # Keeps the rate it has used in its state; a skipped step does not advance the schedule.
        optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=make_schedule(config)),
    )


def learning_rate(opt_state: optax.OptState) -> jax.Array:
    """Returns the rate that the last update of `make_optimizer` used, a float32 scalar."""
    return opt_state[-1].hyperparams["learning_rate"]


def scale_offset_heads(updates: Any, factor: float) -> Any:
    """Multiplies the updates of offset heads, whose parameters lie under 'head', by a factor."""

    def scale(path, update):
        return update * factor if any(key == jax.tree_util.DictKey("head") for key in path) else update

    return jax.tree_util.tree_map_with_path(scale, updates)


def average_params(average: Any, params: Any, step: jax.Array, *, decay: float) -> Any:
    """Returns the exponential moving average of parameters after one more step.

    Args:
      average: before.
      params: new.
      step: int32, how many were averaged before. Early steps decay faster, by (1 + step) / (10 + step), so that
        the average forgets the initial parameters.
      decay: of later steps.
    """
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - rate)
