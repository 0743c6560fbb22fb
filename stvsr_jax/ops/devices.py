"""Where hand-written kernels can run."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

_ONE_DEVICE = AbstractMesh((1,), ("device",), axis_types=(AxisType.Auto,))


def is_single_device() -> bool:
    """Return whether what is traced now will run on one device, or is already one device's part of a whole.

    XLA cannot split a hand-written kernel over devices; inside `jax.shard_map` it need not.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names)


def on_one_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, traced as for one device though there may be more: its arguments must lie on one."""

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(_ONE_DEVICE):
            return function(*args, **kwargs)

    return traced
