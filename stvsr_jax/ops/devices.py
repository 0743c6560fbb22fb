"""Where hand-written kernels can run."""

import jax


def is_single_device() -> bool:
    """Return whether what is traced now will run on one device, or is already one device's part of a whole.

    XLA cannot split a hand-written kernel over devices; inside `jax.shard_map` it need not.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or set(mesh.manual_axes) == set(mesh.axis_names)
