"""What is known, while a program is traced, of the devices that will run it."""

import contextlib
import contextvars
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

_ONE_DEVICE = AbstractMesh((1,), ("device",), axis_types=(AxisType.Auto,))
_is_without_kernels = contextvars.ContextVar("is_without_kernels", default=False)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Trace what is inside without hand-written kernels, as a program that is to be kept must be."""
    token = _is_without_kernels.set(True)
    try:
        yield
    finally:
        _is_without_kernels.reset(token)


def allows_kernels() -> bool:
    """Return whether hand-written kernels may be part of what is traced now: it runs on one device, or is one's part.

    XLA cannot split such a kernel over devices; inside `jax.shard_map` it need not.
    """
    if _is_without_kernels.get():
        return False
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names)


def count_hopper_sms() -> int | None:
    """Return how many sms the NVIDIA Hopper GPU has that what is traced now will run on, None if none."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.devices()[0]
        cores = getattr(device, "core_count", None)
    else:
        cores = device.num_cores
    return cores if re.search(r"\bG?H(100|200|20|800)\b", device.device_kind) else None


def count_mosaic_sms() -> int | None:
    """Return the same where the kernels of Mosaic GPU can be part of what is traced now, None where not.

    They are written for Hopper GPUs and for jax 0.11 and later.
    """
    if jax.__version_info__ < (0, 11) or not allows_kernels():
        return None
    return count_hopper_sms()


def loop_unroll(most: int = 8) -> int:
    """Return how many steps of a loop, at most, are to be written out one after the other.

    On a GPU every array that goes into or out of a step of a loop is copied from or to where all steps' lie, by a
    kernel of its own; for the networks' small frames that costs more than a longer compilation.
    """
    return most if is_for_gpu() else 1


def is_for_gpu() -> bool:
    """Return whether what is traced now will run on a GPU."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return platform in ("gpu", "cuda", "rocm")


def on_one_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, traced as for one device though there may be more: its arguments must lie on one."""

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(_ONE_DEVICE):
            return function(*args, **kwargs)

    return traced
