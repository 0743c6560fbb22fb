"""How programs are compiled and where they are kept."""

import gc
import subprocess
import sys
import time
import types

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.runtime import compilation
from tests.limits import HANG


@pytest.fixture(autouse=True)
def no_directory():
    jax.config.update("jax_compilation_cache_dir", None)


def test_accelerators_keep_programs_in_the_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "stvsr_jax" / "compiled")


def test_a_directory_that_is_set_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)


COMPILE = """
import sys, time, warnings
warnings.simplefilter("error")  # of an entry that cannot be read
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from stvsr_jax.runtime import compilation
compilation.keep_compiled_programs()
print("ready", flush=True)
print(float(jax.jit(lambda x: 3 * x + 1)(2.0)))
"""


def start(directory):
    command = [sys.executable, "-c", COMPILE, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process


def test_an_entry_is_not_read_while_another_process_writes_it(tmp_path):
    first = start(tmp_path).communicate()
    assert first[0].split() == ["ready", "7.0"], first[1]
    entries = {path: path.read_bytes() for path in tmp_path.glob("*-cache")}
    assert entries
    with filelock.FileLock(tmp_path / ".lockfile"):
        for path, content in entries.items():
            path.write_bytes(content[: len(content) // 2])  # a write that is under way
        second = start(tmp_path)
        time.sleep(0.2)
        for path in tmp_path.glob("*-atime"):
            path.unlink()
        time.sleep(3.0)
        assert second.poll() is None  # it waits
        for path, content in entries.items():
            path.write_bytes(content)
    out, err = second.communicate(timeout=HANG)
    assert out.split() == ["ready", "7.0"] and second.returncode == 0, err


@pytest.mark.parametrize("limit", [-1, 10**6])
def test_the_cache_is_limited_unless_it_is_already(tmp_path, limit):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "new"))
    jax.config.update("jax_compilation_cache_max_size", limit)
    compilation.keep_compiled_programs()
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_max_size == (8 * 2**30 if limit == -1 else limit)


def test_entries_from_before_the_limit_get_a_time_and_stay(tmp_path):
    (tmp_path / "jit_a-cache").write_bytes(b"old")
    (tmp_path / "jit_b-cache").write_bytes(b"new")
    (tmp_path / "jit_b-atime").write_bytes(b"12345678")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation.keep_compiled_programs()
    assert (tmp_path / "jit_a-atime").read_bytes() == bytes(8)
    assert (tmp_path / "jit_b-atime").read_bytes() == b"12345678"
    assert (tmp_path / "jit_a-cache").read_bytes() == b"old"


def test_an_entry_that_was_cut_off_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    directory = tmp_path / "stvsr_jax" / "compiled"
    directory.mkdir(parents=True)
    for name in ("jit_a-cache", "jit_b-cache", "jit_b-atime"):
        (directory / name).write_bytes(b"12345678")
    compilation.keep_compiled_programs()
    assert {path.name for path in directory.iterdir()} == {".lockfile", "jit_b-cache", "jit_b-atime"}


def test_cpus_keep_none():
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None


def pretend_device(monkeypatch, platform_version, kind=""):
    client = types.SimpleNamespace(platform_version=platform_version)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(client=client, device_kind=kind)])


def test_cuda_devices_start_convolutions_and_loops_in_graphs(monkeypatch):
    pretend_device(monkeypatch, "PJRT C API\ncuda 13000")
    options = compilation.options()
    assert {"CONVOLUTION", "WHILE"} <= set(options["xla_gpu_enable_command_buffer"].split(","))
    # This version of XLA knows all of their names and values.
    for given in (options, compilation.options(concurrent=True)):
        assert jax.jit(lambda x: 2 * x, compiler_options=given)(jnp.float32(3.0)) == 6.0


@pytest.mark.parametrize(
    "has_convolution,dtype,expected",
    [(True, "float32", False), (False, "float32", True), (True, "bfloat16", True), (True, "float16", True)],
)
def test_float32_convolutions_of_cudnn_stay_outside_of_graphs(monkeypatch, has_convolution, dtype, expected):
    def run(x, kernel):
        return jax.lax.conv(x, kernel, (1, 1), "SAME") if has_convolution else x + 1

    pretend_device(monkeypatch, "PJRT C API\ncuda 13000")
    given = compilation.options()
    monkeypatch.undo()
    used = {}
    compile_lowered = compilation.kernel_compiler.compile_lowered

    def spy(lowered, compiler_options):
        used.update({**given, **(compiler_options or {})})
        return compile_lowered(lowered, compiler_options)

    monkeypatch.setattr(compilation.kernel_compiler, "compile_lowered", spy)
    x, kernel = jnp.ones((1, 1, 4, 4), dtype), jnp.ones((1, 1, 3, 3), dtype)
    result = compilation.jit(run, is_kept=False, compiler_options=given)(x, kernel)
    assert float(result[0, 0, 1, 1]) == (9.0 if has_convolution else 2.0)
    kinds = used["xla_gpu_enable_command_buffer"].split(",")
    assert ("CONVOLUTION" in kinds) == ("CUDNN" in kinds) == expected
    assert {"FUSION", "WHILE"} <= set(kinds)


def test_options_given_last_count():
    name = "xla_gpu_enable_command_buffer"
    lowered = jax.jit(lambda x: 2 * x, compiler_options={name: "NO_SUCH_KIND"}).lower(1.0)
    with pytest.raises(jax.errors.JaxRuntimeError):
        lowered.compile()
    assert lowered.compile({name: "FUSION"})(1.0) == 2.0


@pytest.mark.parametrize("platform_version", ["PJRT C API\nrocm 60300", "cpu", "PJRT C API\nTFRT TPU v5"])
def test_other_devices_get_no_options(monkeypatch, platform_version):
    pretend_device(monkeypatch, platform_version)
    assert compilation.options() == {}


def test_a_tpu_gets_the_options_of_its_kind(monkeypatch):
    pretend_device(monkeypatch, "PJRT C API\nTFRT TPU v4", "TPU v4")
    assert compilation.options() == {"xla_tpu_cmem_max_repacks": "0"}
    pretend_device(monkeypatch, "PJRT C API\nTFRT TPU v5", "TPU v5 lite")
    assert compilation.options() == {}


def test_own_flags_for_graphs_stay(monkeypatch):
    pretend_device(monkeypatch, "PJRT C API\ncuda 13000")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer=")
    assert compilation.options() == {}


def test_jit_takes_static_arguments_and_looks_at_devices_late(monkeypatch):
    monkeypatch.setattr(compilation, "options", lambda: pytest.fail("too early"))
    power = compilation.jit(lambda x, *, n: x**n, static_argnames="n")
    monkeypatch.setattr(compilation, "options", dict)
    assert power(jnp.float32(3.0), n=2) == 9.0


@pytest.fixture
def thresholds():
    """Python's own, which these tests raise."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield 700, 10, 10
    gc.set_threshold(*before)


def test_python_searches_for_garbage_less_often_while_it_traces(thresholds):
    seen = []

    def double(x):
        seen.append(gc.get_threshold()[0])
        if x.ndim == 2:
            raise ValueError("two dimensions")
        if x.ndim:
            compilation.jit(double).prepare(np.float32(1))  # another one ends before this one
            seen.append(gc.get_threshold()[0])
        return 2 * x

    program = compilation.jit(double)
    assert program(jnp.ones(3))[0] == 2
    assert seen == [100_000] * 3 and gc.get_threshold() == thresholds
    with pytest.raises(ValueError, match="two dimensions"):
        program(jnp.ones((3, 3)))
    assert gc.get_threshold() == thresholds
