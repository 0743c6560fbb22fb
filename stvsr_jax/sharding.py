"""The device mesh and how arrays lie on it: batches split over all devices, state on each."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Return a mesh of one axis over the devices (default: all of them, on every process).

    The axis type is written out: `jax.make_mesh` defaults to Explicit, under which merging the batch and
    time axes fails.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def process_batch_size(batch_size: int, mesh: Mesh) -> int:
    """Return how many examples of a global batch this process reads.

    Raises:
      ValueError: the batch does not divide over the devices.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of the {mesh.size} devices it is split over"
        )
    return batch_size // mesh.size * len(mesh.local_devices)


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Return global arrays [B, ...] from the rows that this process holds."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}
