"""The networks' programs compile for TPUs that are not here, within the memory of their chips."""

import json

import jax
import pytest

from stvsr_jax import benchmark, topology_benchmark
from stvsr_jax.runtime import topology

needs_libtpu = pytest.mark.skipif(
    not topology.is_available(), reason="libtpu is not installed: pip install 'stvsr-jax[tpu-compile]'"
)


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
@pytest.mark.heavy
@pytest.mark.parametrize("name, gigabytes", [("zooming_slowmo", 34), ("videoinr", 39)])
def test_inference_takes_a_fifth_of_the_traffic_of_plain_xla(name, gigabytes):
    report = compile_network(name, "v5e:2x2", count=1, is_training=False, height=64, width=112)
    assert report.xla_bytes < gigabytes * 1e9
    assert report.memory_bytes < 0.5e9


NETWORKS = ["zooming_slowmo", "videoinr"]
SECONDS = 240  # to compile, on a machine that does nothing else


@needs_libtpu
@pytest.mark.heavy
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("chips", ["v5e:2x2", "v4:2x2x1", "v6e:2x2"])
def test_inference_of_180x320_fits(name, chips):
    report = compile_network(name, chips, count=1, is_training=False)
    assert report.memory_bytes < 6e9
    assert report.compile_seconds < SECONDS


@needs_libtpu
@pytest.mark.heavy
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "chips, fsdp",
    [
        ("v5e:2x2", 1),
        ("v5e:2x2", 4),
        ("v5e:4x4", 1),
        ("v5e:4x4", 4),
        ("v5p:2x2x2", 1),
        ("v5p:2x2x2", 4),
        ("v4:2x2x1", 1),
        ("v6e:2x2", 1),
    ],
)
def test_training_at_the_published_batch_fits(name, chips, fsdp):
    report = compile_network(name, chips, is_training=True, fsdp=fsdp)
    assert report.memory_bytes < 12e9
    assert report.compile_seconds < SECONDS
    counts, moved = report.cost.collective_counts, report.cost.collective_bytes
    if fsdp == 1:
        assert set(counts) == {"all-reduce"} and counts["all-reduce"] <= 2
    else:  # of 244 and 262 parameters
        assert set(counts) == {"all-gather", "reduce-scatter", "all-reduce"}
        assert counts["all-gather"] < 130 and counts["all-reduce"] <= 4
        assert moved["all-gather"] < 50e6
