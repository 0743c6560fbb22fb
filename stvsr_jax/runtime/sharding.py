"""The device mesh and the shardings of arrays on it.

One mesh of two axes holds all devices. Batches are split over both. The state is replicated (data parallelism), or split
over the axis 'fsdp' if that has more than one device (fully sharded data parallelism). A training step then gathers each
split parameter once (`gather`) and adds up the gradients to where the parameters lie (`add_up`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stvsr_jax.runtime import compilation

DATA_AXIS, FSDP_AXIS = "data", "fsdp"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)
# What `on_each_device` gives a device of an argument: all of it, or its rows.
WHOLE, ROWS = PartitionSpec(), PartitionSpec(BATCH_AXES)
# Smaller arrays stay whole on every device: all together are 2% of the networks, and a collective for each costs more.
_MIN_SPLIT_SIZE = 2**15


def make_mesh(devices: list[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """Returns the mesh of the devices (default: all of them, on every process).

    The axis types are explicit in the code: `jax.make_mesh` defaults to Explicit axes, under which merging the batch and
    time axes fails.

    Args:
      devices: in the order of the batch.
      fsdp: how many devices share one copy of the state; 1 keeps a copy on each.

    Raises:
      ValueError: the devices do not divide by `fsdp`.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp={fsdp} must be a divisor of the {len(devices)} devices")
    shape = (len(devices) // fsdp, fsdp)
    return jax.make_mesh(shape, BATCH_AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def on_each_device(
    function: Callable[..., Any], mesh: Mesh, *, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """Returns a function of global arrays that runs `function` on each device's part of them.

    XLA has nothing to partition inside, so the hand-written kernels of `ops` can run.

    Args:
      function: of local arrays; may use collectives over `BATCH_AXES`.
      mesh: the devices.
      in_specs, out_specs: `WHOLE` or `ROWS` for each argument and result.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def jit_on_rows(function: Callable[..., Any], mesh: Mesh) -> compilation.Program:
    """Returns the jitted function of (params, batch), run on every device's rows; every device gets all results."""
    on_devices = on_each_device(function, mesh, in_specs=(WHOLE, ROWS), out_specs=ROWS)
    return compilation.jit(on_devices, compiler_options={}, out_shardings=replicated(mesh))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis over all devices."""
    return NamedSharding(mesh, ROWS)


def specs_of_state(state: Any, mesh: Mesh) -> Any:
    """Returns how each array of a training state, or of parameters, is split: a tree of the same structure.

    Of each large array the first axis that divides by the devices is split over 'fsdp': behind it the parts of a gathered
    array lie as they did. Only shapes are read.
    """
    count = mesh.shape[FSDP_AXIS]

    def choose(x):
        divisible = [axis for axis, size in enumerate(x.shape) if size % count == 0]
        if count == 1 or x.size < _MIN_SPLIT_SIZE or not divisible:
            return WHOLE
        return PartitionSpec(*[None] * divisible[0], FSDP_AXIS)

    return jax.tree.map(choose, state)


def of_state(state: Any, mesh: Mesh) -> Any:
    """Returns the sharding of each array of a training state, or of parameters: `specs_of_state` on the mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs_of_state(state, mesh))


def gather(parts: Any, specs: Any) -> Any:
    """Returns arrays from a device's parts of them. For functions of `on_each_device`.

    Args:
      parts: a tree of arrays.
      specs: of `specs_of_state`, for each.
    """

    def of_one(x, spec):
        return x if spec == WHOLE else jax.lax.all_gather(x, FSDP_AXIS, axis=_axis(spec), tiled=True)

    return jax.tree.map(of_one, parts, specs)


def add_up(arrays: Any, specs: Any) -> Any:
    """Returns the sums of arrays over all devices, of each the part that a device holds. For functions of `on_each_device`.

    Args:
      arrays: a tree of arrays.
      specs: of `specs_of_state`, for each.
    """

    whole, split, join = _separate(arrays, specs)
    whole = jax.lax.psum(whole, BATCH_AXES)
    parts = [
        jax.lax.psum_scatter(x, FSDP_AXIS, scatter_dimension=_axis(spec), tiled=True)
        for x, spec in zip(split, (spec for spec in jax.tree.leaves(specs) if spec != WHOLE), strict=True)
    ]
    return join(whole, jax.lax.psum(parts, DATA_AXIS))


def measure(parts: Any, specs: Any) -> tuple[Any, jax.Array]:
    """Returns a device's parts of arrays, and the norm of all arrays together. For functions of `on_each_device`.

    The parts go through one array: one kernel for the norm. Several hundred small arrays would take a kernel each.

    Args:
      parts: a tree of arrays.
      specs: of `specs_of_state`, for each.
    """
    whole, split, join = _separate(parts, specs)
    flat, restore = jax.flatten_util.ravel_pytree((whole, split))
    flat = jax.lax.optimization_barrier(flat)  # without it XLA undoes the concatenation
    whole, split = restore(flat)
    count = sum(x.size for x in whole)
    squares = jnp.sum(jnp.square(flat[:count]))
    if split:
        squares += jax.lax.psum(jnp.sum(jnp.square(flat[count:])), FSDP_AXIS)
    return join(whole, split), jnp.sqrt(squares)


def _separate(tree, specs):
    """Returns the whole and the split arrays, and the function that makes the tree of them again."""
    leaves, structure = jax.tree.flatten(tree)
    are_whole = [spec == WHOLE for spec in structure.flatten_up_to(specs)]

    def join(*kinds):
        whole, split = map(iter, kinds)
        return structure.unflatten([next(whole if is_whole else split) for is_whole in are_whole])

    pairs = list(zip(leaves, are_whole, strict=True))
    return [x for x, is_whole in pairs if is_whole], [x for x, is_whole in pairs if not is_whole], join


def _axis(spec):
    return len(spec) - 1


def with_shardings(shapes: Any, mesh: Mesh) -> Any:
    """Returns the same shapes and dtypes with the shardings of a training state."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, of_state(shapes, mesh)
    )


def process_batch_size(batch_size: int, mesh: Mesh, *, micro_batches: int = 1) -> int:
    """Returns how many examples of a global batch this process reads.

    Raises:
      ValueError: the batch does not divide over the devices and into the micro batches.
    """
    if batch_size < 1 or batch_size % (mesh.size * micro_batches):
        parts = f" and the {micro_batches} micro batches" if micro_batches > 1 else ""
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of the {mesh.size} devices{parts} it is split over"
        )
    return batch_size // mesh.size * len(mesh.local_devices)


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns global arrays [B, ...] from the rows that this process holds."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}
