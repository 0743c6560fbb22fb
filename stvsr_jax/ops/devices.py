"""Dispatch: which device a program will run on, as far as is known while it is traced, and which kernels it may hold."""

import contextlib
import contextvars
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

_ONE_DEVICE = AbstractMesh((1,), ("device",), axis_types=(AxisType.Auto,))
_is_without_kernels = contextvars.ContextVar("is_without_kernels", default=False)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Traces what is inside without hand-written kernels: an exported program must run on any device."""
    token = _is_without_kernels.set(True)
    try:
        yield
    finally:
        _is_without_kernels.reset(token)


def allows_kernels() -> bool:
    """Returns whether a program traced now may hold hand-written kernels: it is for one device, or inside `shard_map`.

    XLA cannot partition such a kernel over devices.
    """
    if _is_without_kernels.get():
        return False
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names)


def count_hopper_sms() -> int | None:
    """Returns the number of SMs if a program traced now is for an NVIDIA Hopper GPU, otherwise None."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.devices()[0]
        cores = getattr(device, "core_count", None)
    else:
        cores = device.num_cores
    return cores if re.search(r"\bG?H(100|200|20|800)\b", device.device_kind) else None


def count_mosaic_sms() -> int | None:
    """Returns the number of SMs if a program traced now may hold Mosaic GPU kernels, otherwise None.

    The kernels are written for Hopper GPUs and jax 0.11 or later.
    """
    if jax.__version_info__ < (0, 11) or not allows_kernels():
        return None
    return count_hopper_sms()


def check_implementation(op: str, implementation: str | None, known: Iterable[str]) -> None:
    """Checks a name that an op was given.

    Raises:
      ValueError: it is none of `known`.
    """
    if implementation is not None and implementation not in known:
        raise ValueError(f"{op}: implementation {implementation!r} is not one of {', '.join(sorted(known))}")


def require_mosaic(op: str) -> int:
    """Returns the number of SMs, for an op whose Mosaic kernel is asked for by name.

    Raises:
      NotImplementedError: a program traced now may not hold such kernels.
    """
    if (sms := count_mosaic_sms()) is None:
        raise NotImplementedError(
            f"{op}: pallas_mosaic runs on one NVIDIA Hopper GPU, or inside shard_map, with jax 0.11 or later"
        )
    return sms


def require_support(op: str, implementation: str, is_supported: bool, *arrays: jax.Array) -> None:
    """Checks what a kernel that is asked for by name says of its operands.

    Raises:
      NotImplementedError: it does not support them, or the program is not for its device.
    """
    if not is_supported:
        shapes = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
        raise NotImplementedError(
            f"{op}: {implementation} cannot run {shapes} in a program for {_platform()}"
        )


def loop_unroll(most: int = 8) -> int:
    """Returns by how much to unroll a loop: by `most` on a GPU, otherwise not.

    On a GPU each array that enters or leaves a step is copied from or to the array of all steps, by a kernel of its own.
    For small frames that costs more than a longer compilation.
    """
    return most if is_for_gpu() else 1


def is_for_gpu() -> bool:
    """Returns whether a program traced now is for a GPU."""
    return _platform() in ("gpu", "cuda", "rocm")


def is_for_tpu() -> bool:
    """Returns whether a program traced now is for a TPU."""
    return _platform() == "tpu"


def takes_tpu_kernels() -> bool:
    """Returns whether a program traced now is for a TPU and may hold kernels."""
    return is_for_tpu() and allows_kernels()


def _platform():
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def on_one_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function traced as for one device, though there may be more. Its arguments must lie on one."""

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(_ONE_DEVICE):
            return function(*args, **kwargs)

    return traced
