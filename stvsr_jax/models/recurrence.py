"""A loop over time whose weights get their gradients once, from all times together.

The derivative of `jax.lax.scan` makes a gradient of every weight in every step and adds them up. For a small frame
these are many small kernels. `scan` keeps what a layer read and what came back to its output at each step instead,
and takes the gradient of the layer after the loop, from all T steps: the same sum, rounded once.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stvsr_jax.ops.devices import loop_unroll

# Of (weights, x [T, ...], cotangent [T, ...]): the weights' gradient, summed over T.
Gradient = Callable[[Any, Any, jax.Array], Any]


class _Call(NamedTuple):
    """A layer's run in a step: y = function(weights, x), and what came after; see `apply`."""

    gradient: Gradient
    weights: Any
    x: Any
    y: jax.Array


class _Recording(NamedTuple):
    """The calls of a step so far, and the places whose gradients will be those of the calls' outputs, if wanted."""

    calls: list[_Call]
    places: Iterator[jax.Array] | None


_recording: contextvars.ContextVar[_Recording | None] = contextvars.ContextVar("recording", default=None)


def apply(
    function: Callable[..., jax.Array],
    weights: Any,
    x: Any,
    *,
    gradient: Gradient | None = None,
    **after: Any,
) -> jax.Array:
    """Runs a layer, whose gradient waits for the end of the loop where `scan` differentiates one.

    Args:
      function: of (weights, x, *, tap=None, **after). Its `tap` is an array like function(weights, x) that it does not
        read and whose gradient is that of function(weights, x) inside of function(weights, x, **after), as that of
        `ops.conv2d`.
      weights: a pytree, inside of `scan` one of arrays that are leaves of the loop's weights.
      x: a pytree of arrays.
      gradient: of function(weights, x); None: made from function, which then treats each sample of x [B, ...] by itself.
      **after: what is done with function(weights, x), such as a rectifier. The result has the same shape.

    Returns:
      function(weights, x, **after).
    """
    recording = _recording.get()
    if recording is None:
        return function(weights, x, **after)
    tap = None if recording.places is None else next(recording.places)
    y = function(jax.lax.stop_gradient(weights), x, tap=tap, **after)
    recording.calls.append(_Call(gradient or functools.partial(_as_one_batch, function), weights, x, y))
    return y


def is_recording() -> bool:
    """Return whether what is traced now is a step of a loop that `scan` differentiates."""
    return _recording.get() is not None


def _as_one_batch(function, weights, x, cotangent):
    # Else XLA would take sums over all times apart again, one for each time.
    cotangent = jax.lax.optimization_barrier(cotangent)
    x, cotangent = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (x, cotangent))
    return jax.vjp(lambda weights: function(weights, x), weights)[1](cotangent)[0]


@contextlib.contextmanager
def _record(places):
    recording = _Recording([], None if places is None else iter(places))
    token = _recording.set(recording)
    try:
        yield recording.calls
    finally:
        _recording.reset(token)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], weights: Any, carry: Any, xs: Any
) -> tuple[Any, Any]:
    """Loops as `jax.lax.scan` does.

    Args:
      step: of (weights, carry, x), returns (next carry, y); it may close over no array. Weights that do not go
        through `apply` get their gradients as usual.
      weights: a pytree of arrays, the same in every step.
      carry: before the first step.
      xs: a pytree of arrays [T, ...].

    Returns:
      The last carry and the stacked ys.
    """
    return jax.lax.scan(functools.partial(step, weights), carry, xs, unroll=loop_unroll())


def _forward(step, weights, carry, xs):
    def one_step(weights, carry, x, places=None):
        with _record(places) as calls:
            return step(weights, carry, x), calls

    x = jax.tree.map(lambda x: x[0], xs)
    made = jax.eval_shape(lambda *args: [call.y for call in one_step(*args)[1]], weights, carry, x)
    length = len(jax.tree.leaves(xs)[0])
    places = [jnp.zeros((length, *y.shape), y.dtype) for y in made]
    layers = []

    def all_steps(weights, carry, xs, places):
        def body(carry, x_and_places):
            (carry, y), calls = one_step(weights, carry, *x_and_places)
            layers[:] = [(call.gradient, *_find(call.weights, weights)) for call in calls]
            return carry, (y, [call.x for call in calls])

        carry, (ys, read) = jax.lax.scan(body, carry, (xs, places), unroll=loop_unroll())
        return (carry, ys), read

    results, derivative, read = jax.vjp(all_steps, weights, carry, xs, places, has_aux=True)
    return results, (
        derivative,
        jax.tree_util.Partial(functools.partial(_of_layers, tuple(layers)), weights, read),
    )


def _find(part, whole):
    """Returns where the leaves of `part` stand among those of `whole`, and their structure."""
    numbers = {id(leaf): number for number, leaf in enumerate(jax.tree.leaves(whole))}
    leaves, structure = jax.tree.flatten(part)
    return tuple(numbers[id(leaf)] for leaf in leaves), structure


def _of_layers(layers, weights, read, cotangents):
    """Returns the gradients of the weights that the layers read, zero for the others."""
    leaves, structure = jax.tree.flatten(weights)
    sums = [jnp.zeros_like(leaf) for leaf in leaves]
    for (gradient, numbers, part), x, cotangent in zip(layers, read, cotangents, strict=True):
        found = gradient(part.unflatten([leaves[number] for number in numbers]), x, cotangent)
        for number, leaf in zip(numbers, jax.tree.leaves(found), strict=True):
            sums[number] = sums[number] + leaf
    return structure.unflatten(sums)


def _backward(step, residuals, cotangents):
    derivative, of_layers = residuals
    d_weights, d_carry, d_xs, d_places = derivative(cotangents)
    return jax.tree.map(jnp.add, d_weights, of_layers(d_places)), d_carry, d_xs


scan.defvjp(_forward, _backward)
