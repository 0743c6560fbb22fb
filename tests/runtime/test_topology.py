"""Programs are compiled for TPUs that are not here, with libtpu where it is installed."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from stvsr_jax.ops.deform_conv import tpu_windows
from stvsr_jax.runtime import topology

needs_libtpu = pytest.mark.skipif(
    not topology.is_available(), reason="libtpu is not installed: pip install 'stvsr-jax[tpu-compile]'"
)


def compile_function(function, name, *shapes):
    device = topology.describe_devices(name)[0]
    arguments = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=SingleDeviceSharding(device)) for s in shapes]
    return topology.compile_for(jax.jit(function).trace(*arguments), topology.chip_of(name))


@pytest.mark.parametrize("name", ["h100:2x2", "v5e", ""])
def test_a_topology_is_a_known_chip_and_a_shape(name):
    if name == "v5e":
        assert topology.chip_of(name).bandwidth == 819e9
    else:
        with pytest.raises(ValueError, match="v5e:2x2"):
            topology.chip_of(name)


def test_memory_is_known_by_the_names_that_jax_gives():
    assert topology.memory_of("TPU v6 lite") == 32e9
    assert topology.memory_of("NVIDIA H100 80GB HBM3") is None


def test_without_libtpu_the_extra_is_named(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no library")

    monkeypatch.setattr(topology, "is_available", lambda: False)
    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", fail)
    with pytest.raises(NotImplementedError, match="tpu-compile"):
        topology.describe_devices("v5e:2x2")


@needs_libtpu
def test_a_shape_that_the_chip_does_not_come_in_is_named():
    with pytest.raises(ValueError, match="v5e:3x3"):
        topology.describe_devices("v5e:3x3")


@needs_libtpu
def test_a_product_is_counted_and_bounded():
    n = 8192  # more than VMEM holds
    report = compile_function(jnp.matmul, "v5e:2x2", (n, n), (n, n))
    assert report.cost.flops == report.cost.padded_flops == 2 * n**3
    assert report.matrix_milliseconds == pytest.approx(2 * n**3 / 197e12 * 1e3)
    assert report.cost.hbm_bytes >= 3 * n * n * 2
    assert report.memory_bytes >= 3 * n * n * 2
    assert report.bound_milliseconds == max(report.matrix_milliseconds, report.memory_milliseconds)
    half = compile_function(jnp.matmul, "v4:2x2x1", (n, n), (n, n))  # two devices share a chip
    assert half.matrix_milliseconds == pytest.approx(2 * n**3 / 137.5e12 * 1e3)


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_deformable_convolution_and_its_gradients_stay_on_the_chip(name):
    def run(x, head, kernel, cotangent):
        y, vjp = jax.vjp(tpu_windows.run, x, head, kernel)
        return y, *vjp(cotangent)

    image, head, kernel = (2, 16, 32, 64), (2, 16, 32, 216), (576, 64)
    report = compile_function(run, name, image, head, kernel, image)
    samples = 2 * 16 * 32 * 576 * 4  # float32; the four corners of all samples would be four times as much
    assert report.temporary_bytes < 2 * samples
