"""Concatenation, repetition and reordering of whole images.

XLA concatenates on a GPU at a third of the memory's speed. On an NVIDIA Hopper GPU a kernel copies where it can
(`mosaic.py`); elsewhere it is XLA.
"""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np

from stvsr_jax.ops.devices import (
    check_implementation,
    count_mosaic_sms,
    require_mosaic,
    require_support,
)

IMPLEMENTATIONS = ("xla", "pallas_mosaic")


def arrange(
    function: Callable[..., jax.Array], *arrays: jax.Array, implementation: str | None = None
) -> jax.Array:
    """Returns function(*arrays), copied at the speed of memory.

    Args:
      function: of the arrays; concatenates, stacks, repeats, flips or reorders them along the axes before the last
        three, whatever the size of these three.
      *arrays: [.., H, W, C] each.
      implementation: a name in `IMPLEMENTATIONS`. None: 'pallas_mosaic' on an NVIDIA Hopper GPU, if it supports the
        arrays; otherwise 'xla'.

    Returns:
      [.., H, W, C].

    Raises:
      ValueError: unknown implementation.
      NotImplementedError: the implementation cannot run these arrays, or not on this device.
    """
    check_implementation("arrange", implementation, IMPLEMENTATIONS)
    sms = require_mosaic("arrange") if implementation == "pallas_mosaic" else count_mosaic_sms()
    if sms is None or implementation == "xla":
        return function(*arrays)
    from stvsr_jax.ops.arrange import mosaic  # imports Mosaic, which only Hopper GPUs need

    def by_kernel(*arrays):
        return _arrange_by_kernel(function, arrays, sms)

    is_supported = mosaic.is_supported(arrays)
    if implementation == "pallas_mosaic":
        require_support("arrange", implementation, is_supported, *arrays)
        return by_kernel(*arrays)
    if not is_supported:
        return function(*arrays)
    return jax.lax.platform_dependent(*arrays, cuda=by_kernel, default=function)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2, 3))
def _arrange_by_kernel(function, arrays, sms, interpret=None):
    counts = [math.prod(x.shape[:-3]) for x in arrays]
    numbers = np.split(np.arange(sum(counts), dtype=np.int32), np.cumsum(counts)[:-1])
    table = function(*(n.reshape(*x.shape[:-3], 1, 1, 1) for n, x in zip(numbers, arrays, strict=True)))
    images = _copy(arrays, table.reshape(-1), sms, interpret)
    return images.reshape(*table.shape[:-3], *images.shape[1:])


# Traced and lowered once for equal shapes.
@functools.partial(jax.jit, static_argnames=("sms", "interpret"))
def _copy(arrays, table, sms, interpret):
    from stvsr_jax.ops.arrange import mosaic

    return mosaic.run(arrays, table, sms=sms, interpret=interpret)


def _forward(function, arrays, *options):
    _, vjp = jax.vjp(function, *arrays)
    return _arrange_by_kernel(function, arrays, *options), vjp


def _backward(function, sms, interpret, vjp, cotangent):
    return (vjp(cotangent),)


_arrange_by_kernel.defvjp(_forward, _backward)
