"""Mosaic kernels of a program are found, and are the same in programs of their own."""

import importlib.util
import os
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from stvsr_jax import ops
from stvsr_jax.runtime import kernel_compiler

H200 = AbstractMesh(
    (1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu")
)


def lower_two_convolutions(x, kernel):
    def run(x, kernel):
        once = ops.conv2d(x, kernel)
        return ops.conv2d(jnp.sin(once), kernel), ops.conv2d(once[:, :16], kernel)

    with jax.sharding.use_abstract_mesh(H200):
        return jax.jit(run).trace(x, kernel).lower(lowering_platforms=("cuda",))


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")
def test_each_kernel_is_found_once_and_is_the_same_alone():
    x = jax.ShapeDtypeStruct((2, 32, 24, 64), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.bfloat16)
    kernels = kernel_compiler.find_kernels(lower_two_convolutions(x, kernel))
    assert [k.operands[0].shape for k in kernels] == [(2, 32, 24, 64), (2, 16, 24, 64)]
    for found in kernels:
        assert found.results[0].dtype == jnp.bfloat16 and len(found.attributes["module"]) > 1000
        assert kernel_compiler.find_kernels(kernel_compiler.lower_alone(found)) == [found]
    jax.clear_caches()
    assert kernel_compiler.find_kernels(lower_two_convolutions(x, kernel)) == kernels  # in no way numbered


def test_threads_only_save_time(monkeypatch):
    tried = []

    def fail(kernel):
        tried.append(kernel)
        raise RuntimeError("no such device")

    monkeypatch.setattr(kernel_compiler, "find_kernels", lambda lowered: [1, 2])
    monkeypatch.setattr(kernel_compiler, "_compile_alone", fail)
    compiled = kernel_compiler.compile_lowered(jax.jit(lambda x: 2 * x).lower(jnp.float32(3.0)))
    assert compiled(jnp.float32(3.0)) == 6.0
    assert set(tried) <= {1, 2}


@pytest.fixture
def environment(monkeypatch):
    """The environment without the library of an earlier test; returns the name of its variable."""
    monkeypatch.delenv("MOSAIC_GPU_RUNTIME_LIB_PATH", raising=False)
    yield "MOSAIC_GPU_RUNTIME_LIB_PATH"
    os.environ.pop("MOSAIC_GPU_RUNTIME_LIB_PATH", None)


def test_the_library_that_compiled_kernels_call_is_named_without_an_import(
    monkeypatch, tmp_path, environment
):
    monkeypatch.setattr(kernel_compiler.importlib, "import_module", None)
    (tmp_path / "jax_cuda13_plugin").mkdir()
    library = tmp_path / "jax_cuda13_plugin" / "libmosaic_gpu_runtime.so"
    library.touch()
    monkeypatch.syspath_prepend(tmp_path)
    kernel_compiler.load_runtime(jax.devices("cpu")[0])
    assert environment not in os.environ
    kernel_compiler.load_runtime(mock.Mock(platform="gpu"))
    assert os.environ[environment] == str(library)


def test_jax_names_the_library_in_the_same_way():
    source = pathlib.Path(importlib.util.find_spec("jax.experimental.mosaic.gpu.core").origin).read_text()
    assert all(name in source for name in ("MOSAIC_GPU_RUNTIME_LIB_PATH", "libmosaic_gpu_runtime.so"))


def test_a_library_that_is_named_already_stays(monkeypatch, environment):
    monkeypatch.setenv(environment, "here.so")
    monkeypatch.setattr(kernel_compiler.importlib, "import_module", None)
    kernel_compiler.load_runtime(mock.Mock(platform="gpu"))
    assert os.environ[environment] == "here.so"


def test_a_library_in_no_known_place_is_found_by_jax(monkeypatch, environment):
    imported = []
    monkeypatch.setattr(kernel_compiler, "_PLUGINS", ("no_such_plugin",))
    monkeypatch.setattr(kernel_compiler.importlib, "import_module", imported.append)
    kernel_compiler.load_runtime(mock.Mock(platform="gpu"))
    assert imported == ["jax.experimental.mosaic.gpu"]


def test_a_jax_without_mosaic_gpu_still_loads_programs(monkeypatch, environment):
    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(kernel_compiler, "_PLUGINS", ())
    monkeypatch.setattr(kernel_compiler.importlib, "import_module", fail)
    kernel_compiler.load_runtime(mock.Mock(platform="gpu"))
