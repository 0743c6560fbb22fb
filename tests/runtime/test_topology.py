"""Programs are compiled for TPUs that are not here, with libtpu where it is installed."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from stvsr_jax.ops import bilinear_sample
from stvsr_jax.ops.conv import tpu as conv_tpu
from stvsr_jax.ops.deform_conv import tpu_windows
from stvsr_jax.ops.resize import tpu as resize_tpu
from stvsr_jax.ops.sine_mlp import tpu as sine_tpu
from stvsr_jax.runtime import sharding, topology

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


@needs_libtpu
@pytest.mark.parametrize("name, chips", [("v4:2x2x1", 4), ("v5e:4x4", 16), ("v5p:2x2x2", 8), ("v6e:2x2", 4)])
def test_a_chip_is_a_device_and_makes_a_mesh(name, chips):
    assert sharding.make_mesh(topology.describe_devices(name)).size == chips


def deform(x, head, kernel, cotangent):
    y = tpu_windows.run((16, 32), x, head, kernel)
    return y, *tpu_windows.run_backward((16, 32), x, head, kernel, cotangent)


def convolve(x, kernel, cotangent):
    y = conv_tpu.run((16, 32), [x], kernel)
    return y, *conv_tpu.run_backward((16, 32), [x], kernel, cotangent)


def run_layers(x, first, second, cotangent):
    layers = x.astype(jnp.float32), (first, second), [jnp.zeros(n) for n in (64, 256, 16)]
    options = dict(frequency=30.0, dtype=jnp.bfloat16)
    y = sine_tpu.run(*layers, **options, out_dtype=jnp.bfloat16)
    return y, *sine_tpu.run_backward(*layers, cotangent, **options)


def double_and_halve(x):
    half = resize_tpu.run(resize_tpu.halve((16, 32)), x)
    return half, resize_tpu.run(resize_tpu.double((8, 16)), half)


PIXELS = 2 * 16 * 32
KERNELS = {
    deform: [(64, PIXELS), (216, PIXELS), (576, 64), (64, PIXELS)],
    convolve: [(64, PIXELS), (3, 3, 64, 64), (64, PIXELS)],
    run_layers: [(64, PIXELS), (64, 256), (256, 16), (16, PIXELS)],
    double_and_halve: [(64, PIXELS)],
}


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("function", KERNELS)
def test_kernels_compile_and_what_they_make_between_stays_on_the_chip(name, function):
    report = compile_function(function, name, *KERNELS[function])
    corners = 4 * PIXELS * 576 * 4  # of all samples, float32: what gathers would store
    assert report.temporary_bytes < corners


@needs_libtpu
def test_programs_are_compiled_with_the_options_of_their_chip(monkeypatch):
    wrong = dataclasses.replace(
        topology.CHIPS["v4"], compiler_options=(("xla_tpu_cmem_max_repacks", "some"),)
    )
    monkeypatch.setitem(topology.CHIPS, "v4", wrong)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_tpu_cmem_max_repacks"):
        compile_function(jnp.sin, "v4:2x2x1", (8, 128))


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_masks_of_a_convolution_take_whole_registers(name):
    device = SingleDeviceSharding(topology.describe_devices(name)[0])
    arguments = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=device) for s in KERNELS[convolve]]
    lowered = jax.jit(convolve).trace(*arguments).lower(lowering_platforms=("tpu",))
    assert (
        lowered.compile().memory_analysis().generated_code_size_in_bytes < 300_000
    )  # row by row: 460 kB or more


@needs_libtpu
def test_samples_are_stored_once_and_not_padded():
    mesh = sharding.make_mesh(topology.describe_devices("v5e:2x2")[:1])
    whole = sharding.WHOLE
    sample = sharding.on_each_device(bilinear_sample, mesh, in_specs=(whole, whole), out_specs=whole)
    shapes = ((1, 180, 320, 64), jnp.bfloat16), ((1, 720, 1280, 2), jnp.float32)
    arguments = [jax.ShapeDtypeStruct(*s, sharding=sharding.replicated(mesh)) for s in shapes]
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        report = topology.compile_for(jax.jit(sample).trace(*arguments), topology.chip_of("v5e:2x2"))
    samples = 720 * 1280 * 64 * 2
    assert report.temporary_bytes < 2.2 * samples  # those of the loop, and of one copy; padded they take four
