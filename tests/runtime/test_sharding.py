"""Batches over devices. What needs several devices runs in a process of its own with eight virtual ones."""

import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from stvsr_jax.runtime import sharding
from tests.limits import HANG
from tests.virtual_devices import environment_with


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
    assert sharding.make_mesh().axis_types == (jax.sharding.AxisType.Auto,) * 2


@pytest.mark.parametrize("fsdp", [0, 2, -1])
def test_split_that_does_not_divide_the_devices_is_refused(fsdp):
    with pytest.raises(ValueError, match=f"fsdp={fsdp} must be a divisor of the 1 devices"):
        sharding.make_mesh(fsdp=fsdp)


def test_large_arrays_are_split_at_the_first_axis_that_divides():
    four = types.SimpleNamespace(shape={"fsdp": 4})
    shapes = {
        "stack": (40, 3, 3, 64, 64),
        "kernel": (3, 3, 64, 64),
        "odd": (333, 333),
        "small": (1, 1, 128, 64),
    }
    specs = sharding.specs_of_state({k: np.empty(s, np.int8) for k, s in shapes.items()}, four)
    whole = PartitionSpec()
    wanted = {"stack": PartitionSpec("fsdp"), "kernel": PartitionSpec(None, None, "fsdp")}
    assert specs == wanted | {"odd": whole, "small": whole}
    one = types.SimpleNamespace(shape={"fsdp": 1})
    assert sharding.specs_of_state(np.empty((256, 256)), one) == whole


def test_micro_batches_must_divide_the_rows_of_each_device():
    assert sharding.process_batch_size(32, Eight, micro_batches=2) == 8
    with pytest.raises(ValueError, match="batch_size=24 .* the 8 devices and the 2 micro batches"):
        sharding.process_batch_size(24, Eight, micro_batches=2)


def test_parts_are_gathered_added_up_and_measured():
    mesh = sharding.make_mesh()
    tree = {"a": np.float32([[3.0, 0.0]]), "b": np.float32([4.0])}

    def run(specs):
        def on_device(parts):
            total = sharding.add_up(sharding.gather(parts, specs), specs)
            return sharding.measure(total, specs)

        results = specs, sharding.WHOLE
        return jax.jit(sharding.on_each_device(on_device, mesh, in_specs=(specs,), out_specs=results))(tree)

    for split in (sharding.WHOLE, PartitionSpec(None, sharding.FSDP_AXIS)):
        same, norm = run({"a": split, "b": sharding.WHOLE})
        jax.tree.map(np.testing.assert_array_equal, same, tree)
        assert norm == 5.0


def test_global_arrays_keep_values():
    batch = {"frames": np.arange(24, dtype=np.float32).reshape(4, 6)}
    out = sharding.to_global(batch, sharding.make_mesh())
    np.testing.assert_array_equal(out["frames"], batch["frames"])


SCRIPT = """
import importlib.util, sys
import jax, numpy as np
from stvsr_jax import models
from stvsr_jax.training import optim, train_state, train_step
from stvsr_jax.runtime import sharding

spec = importlib.util.spec_from_file_location("linear_config", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
assert len(jax.devices()) == 8
rng = np.random.default_rng(0)
shapes = {"frames": (16, 2, 2, 4, 3), "target": (16, 3, 8, 16, 3), "times": (16, 3)}
batches = [{k: rng.uniform(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(3)]
sharding._MIN_SPLIT_SIZE = 4096
model = models.build("linear", features=2048)
optimizer = optim.make_optimizer(optim.OptimizerConfig(1e-3, 1e-7, 100, 0.9, 0.99, clip_norm=0.5))
results = []
for count, fsdp, parts in ((1, 1, 1), (8, 1, 1), (8, 8, 1), (8, 4, 1), (8, 4, 2)):
    devices = jax.devices()[:count]
    mesh = sharding.make_mesh(devices, fsdp=fsdp)
    params = train_state.draw_params(model, jax.random.key(0))
    state = train_state.create_on(mesh, params, optimizer, has_ema=True)
    loss = train_step.LossConfig("charbonnier", "mean")
    step = train_step.make_train_step(model, optimizer, loss, mesh, ema_decay=0.9, micro_batches=parts)
    for batch in batches:
        batch = sharding.to_global(batch, mesh)
        assert len(batch["frames"].addressable_shards) == len(devices)
        assert batch["frames"].addressable_shards[0].data.shape[0] == 16 // len(devices)
        state, numbers = step(state, batch)
    if fsdp > 1 and parts == 1:
        text = step.jitted.lower(state, batch).compile().as_text()
        assert text.count(" all-gather(") == text.count(" reduce-scatter(") == 2  # both parameters are split, once
        assert " collective-permute(" not in text and " all-to-all(" not in text
    for tree in (state.params, state.ema, state.opt_state[1].mu, state.opt_state[1].nu):
        leaf = tree["into"]  # [3, 2048]
        assert len(leaf.sharding.device_set) == len(devices)
        assert leaf.addressable_shards[0].data.shape == (3, 2048 // fsdp)
    results.append(jax.device_get((state.params, state.ema, numbers)))
for other in results[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), other, results[0])
try:
    sharding.process_batch_size(12, sharding.make_mesh())
except ValueError as error:
    print(error)
"""


RESTORE = """
import importlib.util, sys
import jax, numpy as np
from stvsr_jax import checkpoint, models
from stvsr_jax.training import checkpoints, optim, train_state
from stvsr_jax.runtime import sharding

spec = importlib.util.spec_from_file_location("linear_config", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
sharding._MIN_SPLIT_SIZE = 4096
model, spec = models.build("linear", features=2048), checkpoint.ModelSpec("linear", {"features": 2048})
optimizer = optim.make_optimizer(optim.OptimizerConfig(1e-3, 1e-7, 100, 0.9, 0.99))
params = train_state.draw_params(model, jax.random.key(0))
meshes = [sharding.make_mesh(jax.devices()[:n], fsdp=f) for n, f in ((1, 1), (8, 1), (8, 8), (8, 4))]
for number, source in enumerate(meshes):
    state = train_state.create_on(source, params, optimizer, has_ema=True)
    with checkpoint.open_manager(f"{sys.argv[2]}/{number}") as manager:
        checkpoints.save(manager, state, spec)
        checkpoints.finish(manager)
        for target in meshes:
            described = train_state.describe(model, optimizer, target, has_ema=True)
            restored = checkpoints.restore_latest(manager, described, spec)
            jax.tree.map(np.testing.assert_array_equal, restored, state)
            for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(described), strict=True):
                assert leaf.sharding == wanted.sharding, (leaf.sharding, wanted.sharding)
    loaded = checkpoint.load_for_inference(f"{sys.argv[2]}/{number}")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
"""


def run_on_eight_devices(pytestconfig, script, *arguments):
    run = subprocess.run(
        [sys.executable, "-c", script, str(pytestconfig.rootpath / "tests" / "linear_config.py"), *arguments],
        env=environment_with(8) | {"PYTHONPATH": str(pytestconfig.rootpath)},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_state_is_restored_on_any_other_mesh(pytestconfig, tmp_path):
    run_on_eight_devices(pytestconfig, RESTORE, str(tmp_path))


def test_eight_devices_and_a_split_state_equal_one_device(pytestconfig):
    out = run_on_eight_devices(pytestconfig, SCRIPT)
    assert "batch_size=12 must be a positive multiple of the 8 devices" in out
