"""The optimiser and its learning-rate schedule."""

import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam under cosine annealing with full restarts, as both recipes use it.

    Attributes:
      learning_rate: at the start of each cycle.
      final_learning_rate: at the end of each cycle.
      cycle_steps: steps of one cycle.
      b1: decay of the gradient average.
      b2: decay of the squared-gradient average.
    """

    learning_rate: float
    final_learning_rate: float
    cycle_steps: int
    b1: float
    b2: float

    def __post_init__(self):
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"optimizer: final_learning_rate={self.final_learning_rate} must lie between 0 and "
                f"learning_rate={self.learning_rate}"
            )
        if self.cycle_steps < 1:
            raise ValueError(f"optimizer: cycle_steps={self.cycle_steps} must be at least 1")


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Return step -> learning rate: cosine cycles, each from the full rate (SGDR, arXiv 1608.03983)."""
    cycle = optax.cosine_decay_schedule(
        config.learning_rate,
        config.cycle_steps,
        alpha=config.final_learning_rate / config.learning_rate if config.learning_rate else 0.0,
    )
    return lambda step: cycle(step % config.cycle_steps)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Return Adam with the schedule."""
    return optax.adam(make_schedule(config), b1=config.b1, b2=config.b2)
