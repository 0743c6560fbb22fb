"""Processes with several devices on a CPU."""

import os


def environment_with(count):
    """Returns the variables for a process of `count` virtual devices that compiles as the tests do."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
