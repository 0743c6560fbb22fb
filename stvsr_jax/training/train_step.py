"""One step of training: loss, gradients, the guard against non-finite values, and the update."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from stvsr_jax import models
from stvsr_jax.models import offsets
from stvsr_jax.runtime import compilation, sharding
from stvsr_jax.training import losses, optim
from stvsr_jax.training.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Which loss: a name in `losses.LOSSES` and a reduction in `losses.REDUCTIONS`."""

    name: str
    reduction: str

    def __post_init__(self):
        for value, known in ((self.name, losses.LOSSES), (self.reduction, losses.REDUCTIONS)):
            if value not in known:
                raise ValueError(f"loss: {value!r} is not one of {sorted(known)}")

    def __call__(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Returns the scalar loss, float32."""
        return losses.REDUCTIONS[self.reduction](losses.LOSSES[self.name](prediction, target))


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: LossConfig,
    mesh: Mesh,
    *,
    micro_batches: int = 1,
    ema_decay: float = 0.0,
    rollback_rate: float = 1.0,
    compiler_options: dict[str, str] | None = None,
) -> compilation.Program:
    """Returns the jitted step (state, batch) -> (state, metrics); the state passed in is consumed.

    The batch is split over the mesh and the state lies as `sharding.of_state` says; XLA puts in the sum of the
    gradients. A non-finite loss or gradient leaves parameters, their average and the optimiser as they were and
    counts as skipped.

    Args:
      model: from `models.build`.
      optimizer: from `optim.make_optimizer`.
      loss: of prediction and target.
      mesh: the devices; inside the step it is `jax.sharding.get_abstract_mesh()`.
      micro_batches: the batch goes through in this many parts, one after the other, to save memory; gradients
        are the same but for rounding.
      ema_decay: of the state's average of the parameters.
      rollback_rate: factor of the learning rate for each rollback of the state.
      compiler_options: see `compilation.options`.

    Returns:
      The step. Batches are {frames [B, N, H, W, 3], target [B, T, H', W', 3], times [B, T]}; metrics are
      scalars: loss, psnr (RGB, dB), grad_norm (before clipping), learning_rate (of this update), skipped (1 if
      this step was), skipped_in_a_row.
    """

    def loss_fn(params, batch):
        target = batch["target"]
        prediction = models.render(model, params, batch["frames"], batch["times"], out_size=target.shape[2:4])
        return loss(prediction, target), jnp.mean((prediction - target) ** 2)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if micro_batches > 1:
        grad_fn = functools.partial(_in_parts, grad_fn, count=micro_batches, reduction=loss.reduction)
    # Inside `shard_map`: parameters gathered once, one reduction over the devices at the end, hand-written kernels between.
    grad_fn = _over_devices(grad_fn, reduction=loss.reduction, mesh=mesh)

    def step(state, batch):
        (value, mse), grads, grad_norm = grad_fn(state.params, batch)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        # Made even where the step is skipped: which state goes on is chosen at the end, by the device.
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        # The learning rate shrinks with each rollback. The state counts them, so a resumed run goes on with the same rate.
        factor = jnp.float32(rollback_rate) ** state.rollbacks
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: factor * u, updates))
        ema = state.ema
        if ema is not None:
            ema = optim.average_params(ema, params, state.step, decay=ema_decay)

        # Skipping must not need the host: it reads the metrics one step late.
        def keep(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        state = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            ema=keep(ema, state.ema),
            opt_state=keep(opt_state, state.opt_state),
            skipped=jnp.where(finite, 0, state.skipped + 1),
            rollbacks=state.rollbacks,
        )
        numbers = {
            "loss": value,
            "psnr": -10.0 * jnp.log10(mse),
            "grad_norm": grad_norm,
            "learning_rate": factor * optim.learning_rate(opt_state),
            "skipped": 1.0 - finite.astype(jnp.float32),
            "skipped_in_a_row": state.skipped,
        }
        return state, numbers

    return _on_mesh(step, mesh, compiler_options)


def make_offset_probe(
    model: nn.Module, mesh: Mesh
) -> Callable[[TrainState, jax.Array], dict[str, jax.Array]]:
    """Returns a jitted function (params, frames [B, N, H, W, 3]) -> mean absolute offsets in pixels.

    Only the encoder up to its last deformable convolution is run, so it is compiled once for all output sizes.

    Returns:
      {offset: mean over all deformable convolutions, offset_largest: of the one with the largest}; empty for a
      network without.
    """

    def probe(params, frames):
        times = jnp.zeros((frames.shape[0], 2 * frames.shape[1] - 1))
        out_size = tuple(4 * size for size in frames.shape[2:4])
        with offsets.collect() as found:
            models.render(model, params, frames, times, out_size=out_size)  # what comes later is not computed
        if not found:
            return {}
        means = jnp.stack([jnp.mean(x) for x in found])
        return {"offset": jnp.mean(means), "offset_largest": jnp.max(means)}

    def run(params, frames):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return probe(params, frames)

    return compilation.jit(run, compiler_options={}, out_shardings=sharding.replicated(mesh))


def _on_mesh(step, mesh, compiler_options):
    """Returns the jitted step whose results lie where its arguments do."""

    def run(state, batch):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            state, numbers = step(state, batch)
        state = jax.lax.with_sharding_constraint(state, sharding.of_state(state, mesh))
        return state, jax.lax.with_sharding_constraint(numbers, sharding.replicated(mesh))

    return compilation.jit(run, donate_argnums=0, compiler_options=compiler_options)


def _over_devices(grad_fn, *, reduction, mesh):
    """Returns a function of the whole batch from a grad_fn of a device's rows: one sum over the devices at the end.

    It returns the norm of the gradients, too. Parameters and gradients lie as `sharding.of_state` says.
    """

    def over_devices(params, batch):
        specs = sharding.specs_of_state(params, mesh)

        def run(params, batch):
            (value, mse), grads = grad_fn(sharding.gather(params, specs), batch)
            value, grads = sharding.add_up((value, grads), (sharding.WHOLE, specs))
            if reduction == "mean":
                value, grads = jax.tree.map(lambda x: x / mesh.size, (value, grads))
            grads, norm = sharding.measure(grads, specs)
            return (value, jax.lax.pmean(mse, sharding.BATCH_AXES)), grads, norm

        whole = sharding.WHOLE
        results = (whole, whole), specs, whole
        on_devices = sharding.on_each_device(run, mesh, in_specs=(specs, sharding.ROWS), out_specs=results)
        return on_devices(params, batch)

    return over_devices


def _in_parts(grad_fn, params, batch, *, count, reduction):
    """Returns what grad_fn would for the whole batch, from one part of it after the other."""

    def add(total, part):
        return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)  # [count, B / count, ...]
    shapes = jax.eval_shape(grad_fn, params, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    ((value, mse), grads), _ = jax.lax.scan(add, zeros, parts)
    if reduction == "mean":
        value, grads = jax.tree.map(lambda x: x / count, (value, grads))
    return (value, mse / count), grads
