"""S layers of one shape, each with weights and images of its own.

Where one kernel runs all S (see `conv.prefers_stacks`), a stack is one tree of arrays [S, ...]. Elsewhere it is a list
of S trees that run one after the other, and no array is copied to lie beside another. Callers see neither: they make
stacks of weights with `stack` or `stack_outputs`, stacks of images with `like`, and run layers with `run`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from stvsr_jax.ops.arrange import arrange
from stvsr_jax.ops.conv import prefers_stacks

Stack = Any  # a tree of arrays [S, ...], or a list of S trees


def stack(layers: Sequence[Any], dtype: Any) -> Stack:
    """Returns the weights of S layers, trees of arrays of one shape, as a stack for computing in `dtype`."""
    if prefers_stacks(dtype):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return list(layers)


def stack_outputs(parts: Sequence[Sequence[Any]], dtype: Any) -> Stack:
    """Returns the weights of layers of which several read the same input.

    Args:
      parts: Q sequences of P layers; layer p of each reads input p. Outputs are the last axis of each array.
      dtype: of the computation.

    Returns:
      A stack for `run` on P inputs. `unfold` takes its result to a stack of Q P images, part by part.
    """
    if prefers_stacks(dtype):
        return stack([layer for part in parts for layer in part], dtype)
    return [
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *same_input)
        for same_input in zip(*parts, strict=True)
    ]


def unfold(images: Stack, parts: int) -> Stack:
    """Returns the result of `run` with weights of `stack_outputs`, from `parts` parts, as a stack of all outputs."""
    if not isinstance(images, list):
        return images
    return [
        half for part in zip(*(jnp.split(x, parts, axis=-1) for x in images), strict=True) for half in part
    ]


def like(layers: Stack, images: Sequence[jax.Array]) -> Stack:
    """Returns images as a stack that `layers` can read."""
    return list(images) if isinstance(layers, list) else jnp.stack(images)


def run(function: Callable[..., Any], layers: Stack, *images: Stack, **options: Any) -> Stack:
    """Runs layers.

    Args:
      function: of (weights, *images, **options), for one layer and for arrays [S, ...].
      layers: weights.
      *images: stacks of G_i images, G_i a divisor of S; layer s reads image s % G_i.
      **options: the same for all layers, or a stack of S arrays under the name `addend`.

    Returns:
      A stack of S results.
    """
    if not isinstance(layers, list):
        return function(layers, *images, **options)
    addends = options.pop("addend", None)
    results = []
    for s, layer in enumerate(layers):
        each = {} if addends is None else {"addend": addends[s]}
        results.append(function(layer, *(x[s % len(x)] for x in images), **options, **each))
    return results


def apply(function: Callable[[jax.Array], jax.Array], images: Stack) -> Stack:
    """Returns a function of each image; the function takes any leading axes."""
    return [function(x) for x in images] if isinstance(images, list) else function(images)


def append(images: Stack, others: Stack | Sequence[jax.Array]) -> Stack:
    """Returns images, G of them repeated to P, and P others behind them.

    Args:
      images: a stack of P or 1.
      others: a stack of P, or P arrays.
    """
    if isinstance(images, list):
        return [*(images[p % len(images)] for p in range(len(others))), *others]
    return arrange(_append, images, *others)


def _append(images, *others):
    repeated = jnp.broadcast_to(images, (len(others), *images.shape[1:]))
    return jnp.concatenate([repeated, jnp.stack(others)])


def halves(images: Stack) -> tuple[Stack, Stack]:
    """Returns the first and the second half of a stack."""
    middle = len(images) // 2
    return images[:middle], images[middle:]
