"""What training carries from step to step, and how it is created on a mesh."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.extend as jex
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval
from jax.sharding import Mesh

from stvsr_jax import models
from stvsr_jax.runtime import sharding


@flax.struct.dataclass
class TrainState:
    """The state of a run.

    Attributes:
      step: int32, number of steps taken; also the number of batches taken from the data.
      params: parameters, float32.
      ema: exponential moving average of the parameters, or None.
      opt_state: of the optimiser.
      skipped: int32, how many of the last steps in a row were skipped because of a non-finite gradient.
      rollbacks: int32, how often the run went back to a checkpoint to go on with a lower learning rate.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    skipped: jax.Array
    rollbacks: jax.Array

    @property
    def best_params(self) -> Any:
        """What is scored and used for inference: the average where there is one."""
        return self.params if self.ema is None else self.ema


def create(params: Any, optimizer: optax.GradientTransformation, *, has_ema: bool) -> TrainState:
    """Returns the state that training begins with; an average begins as a copy of the parameters."""
    ema = jax.tree.map(jnp.copy, params) if has_ema else None
    step, skipped, rollbacks = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(step, params, ema, optimizer.init(params), skipped, rollbacks)


def create_on(
    mesh: Mesh, params: Any, optimizer: optax.GradientTransformation, *, has_ema: bool
) -> TrainState:
    """Returns the same with every array where it belongs; `params` are in host memory or on one device."""
    params = jax.device_put(params, sharding.of_state(params, mesh))
    shapes = jax.eval_shape(lambda params: create(params, optimizer, has_ema=has_ema), params)
    place = jax.jit(
        create, static_argnums=1, static_argnames="has_ema", out_shardings=sharding.of_state(shapes, mesh)
    )
    return place(params, optimizer, has_ema=has_ema)


def describe(model, optimizer: optax.GradientTransformation, mesh: Mesh, *, has_ema: bool) -> TrainState:
    """Returns shape, dtype and sharding of each array of a state, computing nothing."""
    shapes = jax.eval_shape(
        lambda key: create(models.init_params(model, key), optimizer, has_ema=has_ema), jax.random.key(0)
    )
    return sharding.with_shardings(shapes, mesh)


def draw_params(model, key: jax.Array) -> Any:
    """Returns new parameters of a network, drawn by `models.init_params`, in host memory."""
    return jax.device_get(_run_piecewise(lambda key: models.init_params(model, key), key))


def _run_piecewise(function: Callable[[jax.Array], Any], key: jax.Array) -> Any:
    """Runs a function operation by operation.

    Under `jit`, XLA would compile 250 random draws as one program, three times as long as drawing takes. On its own an
    operation is compiled once for each shape, and the networks' kernels have few shapes.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(key)
    # `init` also runs the network once. Nothing of that reaches the parameters, so it is eliminated, not run.
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    leaves = jex.core.jaxpr_as_fun(jex.core.ClosedJaxpr(jaxpr, closed.consts))(key)
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
