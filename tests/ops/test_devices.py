"""Where hand-written kernels may run (on a single device, or on one device's part), and loops written out."""

import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.ops.devices import allows_kernels, count_hopper_sms, loop_unroll, takes_tpu_kernels
from tests.virtual_devices import environment_with

PROGRAM = """
import jax, jax.numpy as jnp
from stvsr_jax.runtime import sharding
from stvsr_jax.ops.devices import allows_kernels, on_one_device

found = []
def function(x):
    found.append(allows_kernels())
    return x

mesh = sharding.make_mesh(fsdp=2)
x = jnp.zeros((8, 2))
jax.jit(function)(x)
with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    jax.jit(function).trace(x)
jax.jit(sharding.on_each_device(function, mesh, in_specs=sharding.ROWS, out_specs=sharding.ROWS))(x)
one = sharding.make_mesh(jax.devices()[:1])
with jax.sharding.use_abstract_mesh(one.abstract_mesh):
    jax.jit(function).trace(x[:2])
part = jax.jit(on_one_device(function))(jax.device_put(x, jax.devices()[1]))
assert part.devices() == {jax.devices()[1]}
print(found)
"""


def test_one_device_is_single():
    assert jax.device_count() > 1 or allows_kernels()


def test_of_several_devices_only_a_part_or_a_mesh_of_one_is_single():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment_with(4), capture_output=True, text=True
    )
    assert done.stdout.strip() == "[False, False, True, True, True]", done.stderr


def test_kernels_for_tpus_are_taken_while_a_program_is_traced_for_one():
    def traced_for(platform):
        device = AbstractDevice(device_kind="any", num_cores=None, platform=platform)
        with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
            return takes_tpu_kernels()

    assert not takes_tpu_kernels()
    assert [traced_for(p) for p in ("cuda", "tpu", "cpu")] == [False, True, False]


def test_loops_are_written_out_for_a_gpu_only():
    def traced_for(platform):
        device = AbstractDevice(device_kind="any", num_cores=None, platform=platform)
        with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
            return loop_unroll()

    assert loop_unroll() == 1  # these tests run on a CPU
    assert [traced_for(p) for p in ("cuda", "tpu", "cpu")] == [8, 1, 1]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("NVIDIA H100 80GB HBM3", 132),
        ("NVIDIA H200", 132),
        ("NVIDIA GH200 480GB", 132),
        ("NVIDIA A100-SXM4-80GB", None),
        ("NVIDIA B200", None),
    ],
)
def test_hopper_gpus_are_known_by_their_name(kind, count):
    device = AbstractDevice(device_kind=kind, num_cores=132, platform="cuda")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
        assert count_hopper_sms() == count
    assert count_hopper_sms() is None  # these tests run on a CPU
