"""What training carries from step to step, and how it is created on a mesh."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from stvsr_jax import models


@flax.struct.dataclass
class TrainState:
    """The state of a run.

    Attributes:
      step: int32, number of steps taken.
      params: parameters, float32.
      opt_state: of the optimiser.
      skipped: int32, how many of the last steps in a row were skipped because of a non-finite gradient.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    skipped: jax.Array


def create(model, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Return the initial state; jit it with `out_shardings` to create it where it belongs."""
    params = models.init_params(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), jnp.zeros((), jnp.int32))
