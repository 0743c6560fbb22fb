"""The networks' programs compile for TPUs that are not here, within the memory of their chips."""

import json

import jax
import pytest

from stvsr_jax import benchmark, topology_benchmark
from stvsr_jax.runtime import topology

needs_libtpu = pytest.mark.skipif(
    not topology.is_available(), reason="libtpu is not installed: pip install 'stvsr-jax[tpu-compile]'"
)
SMALL = {"front_blocks": 1, "back_blocks": 1}  # 64 channels in 8 groups, as the kernels want them


def compile_network(name, chips, *, is_training, count=None, **options):
    devices = topology.describe_devices(chips)[:count]
    job = topology_benchmark.make_job(name, devices, is_training=is_training, **options)
    return topology_benchmark.compile_job(job, chips)


def test_jobs_are_those_of_the_benchmark():
    job = topology_benchmark.make_job("videoinr", jax.devices()[:1], is_training=True)
    assert job.shapes == "24 x 2x32x32 -> 3x128x128"
    job = topology_benchmark.make_job(
        "zooming_slowmo", jax.devices()[:1], is_training=False, height=8, width=16
    )
    assert job.shapes == "1 x 4x8x16 -> 7x32x64"
    shapes = jax.eval_shape(job.function, *job.arguments)
    assert shapes.shape == (1, 7, 32, 64, 3)


def test_unknown_topologies_end_the_command(capsys):
    assert benchmark.main(["--model", "videoinr", "--topology", "h100:8"]) == 2
    assert "h100:8" in capsys.readouterr().err


@needs_libtpu
def test_command_prints_a_record(capsys, monkeypatch):
    def small(function, *args, **kwargs):
        return topology_benchmark.Job(jax.jit(lambda x: x @ x), (shape,), "1")

    device = topology.describe_devices("v5e:2x2")[0]
    shape = jax.ShapeDtypeStruct((256, 256), "bfloat16", sharding=jax.sharding.SingleDeviceSharding(device))
    monkeypatch.setattr(topology_benchmark, "make_job", small)
    assert benchmark.main(["--model", "videoinr", "--topology", "v5e:2x2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["teraflops"] == pytest.approx(2 * 256**3 / 1e12)
    assert record["device_gigabytes"] == 16
    assert record["matrix_bound_milliseconds"] == pytest.approx(2 * 256**3 / 197e12 * 1e3)


@needs_libtpu
def test_training_step_over_several_hosts_sums_its_gradients(monkeypatch):
    chips = "v5p:2x2x2"  # two hosts
    sizes = {"batch": 1, "height": 8, "width": 8}
    fields = {"fields": SMALL, "fsdp": 4}
    report = compile_network("zooming_slowmo", chips, is_training=True, **fields, **sizes)
    gradients = (
        4 * 4.5e6
    )  # bytes of float32: front and back blocks are all that is missing of 11 million parameters
    assert sum(report.cost.collective_bytes.values()) > gradients
    assert report.cost.collective_counts["all-gather"] > 0  # of the parameters


@needs_libtpu
@pytest.mark.heavy
@pytest.mark.parametrize(
    "name, is_training, gigabytes",
    [
        ("zooming_slowmo", False, 6),
        ("videoinr", False, 6),
        ("zooming_slowmo", True, 12),
        ("videoinr", True, 12),
    ],
)
def test_published_shapes_fit_into_a_small_chip(name, is_training, gigabytes):
    report = compile_network(name, "v5e:2x2", count=1, is_training=is_training)
    assert report.memory_bytes < gigabytes * 1e9


@needs_libtpu
@pytest.mark.heavy
@pytest.mark.parametrize("chips", ["v5e:4x4", "v5p:2x2x2"])
@pytest.mark.parametrize("fsdp", [1, 4])
@pytest.mark.parametrize("name", ["zooming_slowmo", "videoinr"])
def test_training_steps_compile_for_pods(name, fsdp, chips):
    report = compile_network(name, chips, is_training=True, fsdp=fsdp)
    assert report.memory_bytes < 12e9
