"""How far the deformable convolutions reach: their mean absolute offsets, collected while a network is traced.

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
    """Collect what is recorded inside, in order."""
    found: list[jax.Array] = []
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


@contextlib.contextmanager
def collect_in_loop() -> Iterator[list[jax.Array]]:
    """The same inside the body of a loop, whose results must leave it as outputs; empty where nobody collects."""
    if _found.get() is None:
        yield []
    else:
        with collect() as found:
            yield found


def record(offset: jax.Array) -> None:
    """Record the mean absolute value of offsets in pixels, of any shape."""
    if _found.get() is not None:
        record_means([jnp.mean(jnp.abs(offset))])


def record_means(means: list[jax.Array]) -> None:
    """Record mean absolute offsets, e.g. those that a loop has put out."""
    if (found := _found.get()) is not None:
        found.extend(means)
