"""Mean absolute offsets of the deformable convolutions, collected while a network is traced.

    with offsets.collect() as found:
        model.apply(...)
    # found: one float32 scalar (or one for each step of a loop) for every deformable convolution, in pixels

Outside of `collect` nothing is computed. Growing offsets are how the training of these networks diverges.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp

_found: contextvars.ContextVar[list[jax.Array] | None] = contextvars.ContextVar("found", default=None)


@contextlib.contextmanager
def collect() -> Iterator[list[jax.Array]]:
    """Collects what is recorded inside, in order."""
    found: list[jax.Array] = []
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


@contextlib.contextmanager
def collect_in_loop() -> Iterator[list[jax.Array]]:
    """Collects inside the body of a loop, whose values must leave it as outputs. Collects nothing outside `collect`."""
    if _found.get() is None:
        yield []
    else:
        with collect() as found:
            yield found


def record(offset: jax.Array) -> None:
    """Records the mean absolute value of offsets in pixels, of any shape."""
    if _found.get() is not None:
        record_means([jnp.mean(jnp.abs(offset))])


def record_means(means: list[jax.Array]) -> None:
    """Records mean absolute offsets, such as the outputs of a loop."""
    if (found := _found.get()) is not None:
        found.extend(means)
