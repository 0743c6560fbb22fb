"""The deformable convolution on a TPU for displacements of any size: as many windows as these need.

Nearly always that is one: the displacements of trained networks are 0.3 pixels on average and 1.5 at most.
"""

import functools

import jax
import jax.numpy as jnp

from stvsr_jax.ops.deform_conv import tpu, tpu_backward
from stvsr_jax.ops.deform_conv.tpu import CHANNELS, GROUPS, HEAD_CHANNELS, REACH, TAPS, Plan

_STEP = 2 * REACH + 1  # pixels from one window's centre to the next


def is_supported(x: jax.Array, head: jax.Array, kernel: jax.Array) -> bool:
    """Returns whether `run` can: x [B, H, W, C], head [B, H, W, 27 G], kernel [9 C, C']."""
    return (
        x.ndim == 4
        and x.dtype in (jnp.bfloat16, jnp.float32)
        and (x.shape[-1], head.shape[-1]) == (CHANNELS, HEAD_CHANNELS)
        and kernel.shape[-1] % 8 == 0
        and x.shape[2] <= _LARGEST_WIDTH
    )


_LARGEST_WIDTH = 1024  # for which block and halos fit into 16 MB of VMEM


# Traced and lowered once for equal shapes, as `run_backward` is.
@functools.partial(jax.jit, static_argnames=("size", "interpret"))
def run(
    size: tuple[int, int], x: jax.Array, head: jax.Array, kernel: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """Returns the samples' product with the kernel.

    Args:
      size: (H, W) of the images.
      x: [C, P], P = B H W.
      head: [27 G, P], see `ops.deform_columns`.
      kernel: [9 C, C'], tap then channel.
      interpret: run on any device.

    Returns:
      [C', P] in the dtype of x.
    """
    plan = Plan.of(x.shape[1], size)

    def add(window, total):
        y = tpu.run(plan, *window, interpret=interpret)
        return y if total is None else total + y.astype(jnp.float32)

    zeros = jnp.zeros((kernel.shape[1], plan.pixels), jnp.float32)
    return _over_windows(plan, add, zeros, tpu.pad(plan, x), head, kernel, interpret).astype(x.dtype)


@functools.partial(jax.jit, static_argnames=("size", "interpret"))
def run_backward(
    size: tuple[int, int],
    x: jax.Array,
    head: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of `run`.

    Args:
      size, x, head, kernel, interpret: as there.
      cotangent: [C', P].

    Returns:
      Those of x, head and kernel, in their shapes and dtypes.
    """
    plan = Plan.of(x.shape[1], size)
    operands = tpu.pad(plan, x), head, kernel

    def add(window, total):
        gradients = tpu_backward.run(plan, *window, cotangent, interpret=interpret)
        if total is None:
            return gradients
        d_image, *others = (g.astype(jnp.float32) for g in gradients)
        d_image = tpu.roll(plan, d_image, _distance(plan, window[0]), interpret=interpret)
        return jax.tree.map(jnp.add, total, (d_image, *others))

    zeros = tuple(jnp.zeros(a.shape, jnp.float32) for a in operands)
    d_image, *others = _over_windows(plan, add, zeros, *operands, interpret)
    gradients = (tpu.unpad(plan, d_image), *others)
    return tuple(d.astype(a.dtype) for d, a in zip(gradients, (x, head, kernel), strict=True))


def _over_windows(plan, add, zeros, image, head, kernel, interpret):
    """Returns what all windows add up to.

    Args:
      plan: of the pixels.
      add: of a window (centre, image rolled to it, head, kernel) and the sum so far; None: there is no other window.
      zeros: the sum of no windows, float32.
      image, head, kernel, interpret: as of `tpu.run`, the image not rolled.
    """
    counts = count_windows(head, plan.size)

    def run_one():
        return add((jnp.zeros(2, jnp.int32), image, head, kernel), None)

    def run_all():
        def body(number, total):
            y, x = jnp.divmod(number, 2 * counts[1] + 1)
            centre = _STEP * (jnp.stack([y, x]) - counts)
            rolled = tpu.roll(plan, image, -_distance(plan, centre), interpret=interpret)
            return add((centre, rolled, head, kernel), total)

        total = jax.lax.fori_loop(0, jnp.prod(2 * counts + 1), body, zeros)
        kinds = jax.eval_shape(run_one)
        return jax.tree.map(lambda x, kind: x.astype(kind.dtype), total, kinds)

    return jax.lax.cond(jnp.all(counts == 0), run_one, run_all)


def _distance(plan, centre):
    """Returns how many pixels after its own place a window's centre is."""
    return centre[0] * plan.size[1] + centre[1]


def count_windows(head: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns how many windows are needed on each side of the first one, along y and x, [2] int32.

    Args:
      head: [27 G, P].
      size: (H, W). What is displaced farther than it is outside of the image.
    """
    displacements = head.reshape(TAPS, 3, GROUPS, -1)[:, :2].astype(jnp.float32)
    largest = jnp.max(jnp.where(jnp.isnan(displacements), 0.0, jnp.abs(displacements)), axis=(0, 2, 3))
    # The last pixel that is read is the one after floor(largest), also where the displacement is an integer.
    last = jnp.minimum(jnp.floor(largest), max(size) + 1.0) + 1.0
    return jnp.ceil(jnp.maximum(last - REACH, 0.0) / _STEP).astype(jnp.int32)
