"""The benchmark counts operations exactly and reports every figure it names."""

import json

import jax
import jax.numpy as jnp
import pytest

from stvsr_jax import benchmark
from stvsr_jax.ops import conv2d
from tests.third_network import NAME, Thirds


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """JAX has run here already, so this process cannot look for others."""
    monkeypatch.setattr(benchmark.distributed, "initialize", lambda: None)


def flops(function, *args):
    return benchmark.count_flops(jax.make_jaxpr(function)(*args).jaxpr)


def test_products_and_convolutions_count_two_per_multiply_add():
    assert flops(jnp.matmul, jnp.zeros((5, 7)), jnp.zeros((7, 3))) == 2 * 5 * 7 * 3
    x, kernel = jnp.zeros((2, 6, 8, 4)), jnp.zeros((3, 3, 4, 5))
    assert flops(conv2d, x, kernel) == 2 * (2 * 6 * 8 * 5) * 9 * 4


def test_loops_count_every_turn():
    def loop(x, w):
        return jax.lax.scan(lambda y, _: (y @ w, None), x, length=6)[0]

    assert flops(loop, jnp.zeros((2, 3)), jnp.zeros((3, 3))) == 6 * 2 * 2 * 3 * 3


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_of_a_convolution_counts_three_times_its_value(stride):
    x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))

    def loss(x, kernel):
        return conv2d(x, kernel, stride).sum()

    once = flops(lambda *args: conv2d(*args, stride), x, kernel)
    assert flops(jax.grad(loss, (0, 1)), x, kernel) == pytest.approx(3 * once)


@pytest.mark.parametrize("job", [[], ["--train", "--batch", "1", "--concurrent_kernels"]])
def test_programs_are_compiled_with_the_options_of_the_device(job, monkeypatch):
    monkeypatch.setattr(benchmark.models, "build", lambda name, **kwargs: small(name, kwargs))
    asked, given = [], []

    def options(**arguments):
        asked.append(arguments)
        return {"xla_gpu_enable_command_buffer": "FUSION"}  # means nothing to a CPU

    def jit(function, **settings):
        given.append(settings["compiler_options"])
        return real_jit(function, **settings)

    def stop(made, **_):
        assert made.shapes == "1 x 2x8x8 -> 1x32x32"
        raise ValueError("a training step compiles for a minute")

    real_jit = benchmark.compilation.jit
    monkeypatch.setattr(benchmark.compilation, "jit", jit)
    monkeypatch.setattr(benchmark.compilation, "options", options)
    monkeypatch.setattr(benchmark, "measure", stop)
    arguments = ["--model", "videoinr", "--dtype", "float32", "--height", "8", "--width", "8", "--times", "1"]
    assert benchmark.main([*arguments, "--repeats", "1", *job]) == 2
    assert asked == [{"concurrent": bool(job)}]
    assert given == [{"xla_gpu_enable_command_buffer": "FUSION"}]


def test_record_has_all_figures_and_the_kernels_of_a_call(capsys, monkeypatch):
    monkeypatch.setitem(benchmark.models.MODELS, NAME, Thirds)  # compiles in a moment
    arguments = [
        "--model",
        NAME,
        "--dtype",
        "float32",
        "--train",
        "--repeats",
        "2",
        "--profile",
        "2",
        "--json",
    ]
    assert benchmark.main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["shapes"] == "2 x 3x4x8 -> 7x8x16"
    assert record["device"] == f"1 x {jax.devices()[0].device_kind}, 1 processes"
    for figure in ("milliseconds", "compile_seconds", "cached_compile_seconds", "gigabytes"):
        assert record[figure] > 0
    assert record["milliseconds_low"] <= record["milliseconds"] <= record["milliseconds_high"]
    names, spent, times = zip(*record["kernels"], strict=True)
    assert len(set(names)) == 2 and list(spent) == sorted(spent, reverse=True)
    assert 0 < sum(spent) <= record["kernel_milliseconds"] and sum(times) <= record["kernel_count"]
    assert min(times) >= 1 and not any(name.startswith(("while", "call", "end:")) for name in names)


@pytest.mark.heavy  # two compilations of a real network
def test_share_of_a_matrix_product_is_that_of_its_operations(capsys, monkeypatch):
    monkeypatch.setattr(benchmark.models, "build", lambda name, **kwargs: small(name, kwargs))
    arguments = ["--model", "videoinr", "--dtype", "float32", "--height", "8", "--width", "8", "--times", "2"]
    assert benchmark.main([*arguments, "--repeats", "2", "--profile", "5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["teraflops"] > 0 and record["share_of_matmul"] == pytest.approx(
        record["teraflops"] / record["milliseconds"] * 1e3 / record["matmul_teraflops_per_second"]
    )
    assert len(record["kernels"]) == 5


def small(name, kwargs):
    cls = benchmark.models.MODELS[name]
    return cls(features=8, groups=2, front_blocks=1, back_blocks=1, hidden=(8, 8, 8), **kwargs)


def test_unknown_implementation_is_named(capsys):
    assert (
        benchmark.main(["--model", "videoinr", "--implementation", "fast", "--height", "8", "--width", "8"])
        == 2
    )
    assert "'fast' is not one of" in capsys.readouterr().err


def test_devices_beyond_those_there_are_named(capsys, monkeypatch):
    monkeypatch.setattr(benchmark.models, "build", lambda name, **kwargs: small(name, kwargs))
    assert benchmark.main(["--model", "videoinr", "--devices", "99"]) == 2
    assert "--devices 99" in capsys.readouterr().err


def test_of_several_processes_every_device_takes_part(capsys, monkeypatch):
    monkeypatch.setattr(benchmark.models, "build", lambda name, **kwargs: small(name, kwargs))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert benchmark.main(["--model", "videoinr", "--devices", "2"]) == 2
    assert "--devices 2 must be between 4 and 4" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["batch", "frames", "height", "width", "times", "repeats"])
@pytest.mark.parametrize("value", ["0", "-1"])
def test_impossible_sizes_are_one_line(capsys, name, value):
    assert benchmark.main(["--model", "videoinr", f"--{name}", value]) == 2
    assert capsys.readouterr().err == f"error: --{name} {value} must be at least 1\n"
