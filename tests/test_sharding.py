"""Batches over devices. What needs several devices runs in a process of its own with eight virtual ones."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from stvsr_jax import sharding


class Eight:
    """Stands for a mesh of 8 devices, of which this process holds 2."""

    size = 8
    local_devices = (None, None)


@pytest.mark.parametrize("batch_size", [12, 4, 0, -8])
def test_batch_that_does_not_divide_is_refused_with_both_numbers(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} .* multiple of the 8 devices"):
        sharding.process_batch_size(batch_size, Eight)


def test_process_reads_the_share_of_its_devices():
    assert sharding.process_batch_size(24, Eight) == 6
    assert sharding.process_batch_size(3, sharding.make_mesh()) == 3


def test_axis_types_are_auto():
    assert sharding.make_mesh().axis_types == (jax.sharding.AxisType.Auto,)


def test_global_arrays_keep_values():
    batch = {"frames": np.arange(24, dtype=np.float32).reshape(4, 6)}
    out = sharding.to_global(batch, sharding.make_mesh())
    np.testing.assert_array_equal(out["frames"], batch["frames"])


SCRIPT = """
import importlib.util, sys
import jax, numpy as np, optax
from stvsr_jax import models, sharding, train, train_state

spec = importlib.util.spec_from_file_location("linear_config", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
assert len(jax.devices()) == 8
rng = np.random.default_rng(0)
shapes = {"frames": (8, 2, 4, 8, 3), "target": (8, 3, 16, 32, 3), "times": (8, 3)}
batches = [{k: rng.uniform(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(3)]
model, optimizer = models.build("linear"), optax.sgd(0.1)
results = []
for devices in (jax.devices(), jax.devices()[:1]):
    mesh = sharding.make_mesh(devices)
    state = train_state.create(model, optimizer, jax.random.key(0))
    state = jax.device_put(state, sharding.replicated(mesh))
    step = train.make_train_step(model, optimizer, train.LossConfig("charbonnier", "mean"), mesh)
    for batch in batches:
        batch = sharding.to_global(batch, mesh)
        assert len(batch["frames"].addressable_shards) == len(devices)
        assert batch["frames"].addressable_shards[0].data.shape[0] == 8 // len(devices)
        state, numbers = step(state, batch)
    leaf = state.params["into"]
    assert len(leaf.addressable_shards) == len(devices)
    assert leaf.sharding.is_fully_replicated
    results.append(jax.device_get((state.params, numbers)))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *results)
try:
    sharding.process_batch_size(12, sharding.make_mesh())
except ValueError as error:
    print(error)
"""


def test_train_step_on_eight_devices_equals_one(pytestconfig):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(pytestconfig.rootpath / "tests" / "linear_config.py")],
        env=os.environ
        | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
        | {"PYTHONPATH": str(pytestconfig.rootpath)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "batch_size=12 must be a positive multiple of the 8 devices" in run.stdout
