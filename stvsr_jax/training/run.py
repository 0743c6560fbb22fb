"""What a training run is made of, before its first step."""

import dataclasses

import flax.linen as nn
import optax
from jax.sharding import Mesh

from stvsr_jax import checkpoint, data
from stvsr_jax.training import optim, train_state
from stvsr_jax.training.train_step import LossConfig


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long a run is, how often it reports and saves, and what it does when it diverges; durations in steps.

    Attributes:
      num_steps: of the whole run.
      micro_batches: parts of a batch that go through one after the other, to save memory.
      log_every: averages are written and printed.
      eval_every: the held-out windows are scored; also at the end.
      checkpoint_every: the state is saved; also at the end.
      keep_checkpoints: how many of the newest stay, besides the one with the best score.
      keep_every: checkpoints of multiples of this step stay, too; 0 for none.
      num_panels: pictures of held-out windows that go to TensorBoard with the scores.
      max_skipped_steps: this many non-finite losses or gradients in a row are a divergence.
      max_rollbacks: how often a run that diverged goes back to the last good checkpoint; then it stops.
      rollback_rate: factor of the learning rate from then on, each time.
      concurrent_kernels: on a CUDA device, run kernels side by side where they can: faster, with more memory.
    """

    num_steps: int
    micro_batches: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_checkpoints: int
    keep_every: int
    num_panels: int
    max_skipped_steps: int
    max_rollbacks: int
    rollback_rate: float
    concurrent_kernels: bool

    def __post_init__(self):
        for name in (
            "num_steps",
            "micro_batches",
            "log_every",
            "eval_every",
            "checkpoint_every",
            "keep_checkpoints",
            "max_skipped_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name}={getattr(self, name)} must be at least 1")
        for name in ("keep_every", "num_panels", "max_rollbacks"):
            if getattr(self, name) < 0:
                raise ValueError(f"train: {name}={getattr(self, name)} must be at least 0")
        if not 0 < self.rollback_rate <= 1:
            raise ValueError(f"train: rollback_rate={self.rollback_rate} must be above 0 and at most 1")


@dataclasses.dataclass
class Run:
    """Everything a config describes, checked and built, before the first step."""

    spec: checkpoint.ModelSpec
    model: nn.Module
    mesh: Mesh
    loop: LoopConfig
    optimizer: optax.GradientTransformation
    optimizer_config: optim.OptimizerConfig
    loss: LossConfig
    datasets: data.Datasets
    batch_size: int
    seed: int
    init_from: str

    def describe_state(self) -> train_state.TrainState:
        """Returns shape, dtype and sharding of each array of the state, computing nothing."""
        return train_state.describe(
            self.model, self.optimizer, self.mesh, has_ema=self.optimizer_config.ema_decay > 0
        )
