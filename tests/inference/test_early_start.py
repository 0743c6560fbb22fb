"""The device is woken and programs are loaded while modules are imported; what goes wrong there is left to who needs them."""

import argparse
import gc
import os
import pathlib
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.inference import early_start
from stvsr_jax.runtime import compilation, program_store

VARIABLE = "XLA_PYTHON_CLIENT_PREALLOCATE"


@pytest.fixture
def video(tmp_path, write_video):
    return write_video(tmp_path / "in.mp4", np.zeros((3, 32, 48, 3), np.uint8))


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Programs are kept, as on an accelerator."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(compilation, "options", dict)
    monkeypatch.setattr(program_store, "_used", {})
    monkeypatch.setattr(program_store, "_begun", {})
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))


def arguments(*paths, **others):
    return argparse.Namespace(paths=[pathlib.Path(p) for p in paths], overwrite=False, time=2, **others)


def double():
    return compilation.jit(lambda x: 2 * x)


def test_the_next_job_like_it_finds_its_programs_under_way(kept, video):
    double()(jnp.arange(3.0))
    early_start.remember(arguments(video, "out.mp4", crf=14), video)
    program_store._used.clear()
    with early_start.begun(arguments(video, "other.mp4", crf=20)):
        pass
    (future,) = program_store._begun.values()
    loaded = future.result()
    program = double()
    assert program.prepare(jnp.arange(3.0)) is loaded and not program_store._begun
    np.testing.assert_array_equal(program(jnp.arange(3.0)), [0.0, 2.0, 4.0])


@pytest.mark.parametrize(("given", "expected"), [(None, "false"), ("true", "true")])
def test_memory_is_taken_as_it_is_needed_unless_the_environment_says_otherwise(
    monkeypatch, video, given, expected
):
    monkeypatch.setenv(VARIABLE, "")  # restored afterwards
    monkeypatch.delenv(VARIABLE)
    if given:
        monkeypatch.setenv(VARIABLE, given)
    with early_start.begun(arguments(video, "out.mp4")):
        assert os.environ[VARIABLE] == expected


def test_another_job_finds_none(kept, video, tmp_path, write_video):
    double()(jnp.arange(3.0))
    early_start.remember(arguments(video, "out.mp4"), video)
    program_store._used.clear()
    larger = write_video(tmp_path / "larger.mp4", np.zeros((3, 64, 48, 3), np.uint8))
    for args in (arguments(larger, "out.mp4"), arguments(video, "out.mp4", space=2.0)):
        with early_start.begun(args):
            pass
        assert not program_store._begun


def test_an_input_that_is_damaged_by_the_end_does_no_harm(kept, tmp_path):
    (tmp_path / "damaged.mp4").write_bytes(b"nothing")
    double()(jnp.arange(3.0))
    early_start.remember(arguments(tmp_path / "damaged.mp4", "out.mp4"), tmp_path / "damaged.mp4")


def test_of_several_inputs_the_first_counts(kept, video, tmp_path):
    double()(jnp.arange(3.0))
    args = arguments(video, tmp_path / "second.mp4", tmp_path)
    early_start.remember(args, tmp_path / "second.mp4")
    program_store._used.clear()
    with early_start.begun(args):
        pass
    assert not program_store._begun


@pytest.mark.parametrize("name", ["missing.mp4", "damaged.mp4", "folder"])
def test_an_input_that_cannot_be_read_is_left_to_the_job(kept, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "damaged.mp4").write_bytes(b"nothing")
    before = threading.active_count()
    with early_start.begun(arguments(tmp_path / name, "out.mp4")):
        pass
    assert not program_store._begun and threading.active_count() == before


def test_a_device_that_fails_is_left_to_the_job(monkeypatch, video):
    def fail():
        raise RuntimeError("no device")

    monkeypatch.setattr(jax, "local_devices", fail)
    with early_start.begun(arguments(video, "out.mp4")):
        pass
    assert not program_store._begun


@pytest.mark.parametrize("is_on", [True, False])
def test_garbage_is_not_searched_for_while_importing(is_on):
    before = gc.isenabled()
    try:
        gc.enable() if is_on else gc.disable()
        with pytest.raises(ImportError), early_start.importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == is_on
    finally:
        gc.enable() if before else gc.disable()


def test_the_end_of_the_process_searches_for_no_garbage(tmp_path):
    code = """if True:
        import atexit, gc, sys
        atexit.register(lambda: print("frozen", gc.get_freeze_count() > 100_000))  # runs last
        from stvsr_jax.inference import __main__
        sys.exit(__main__.main(["missing.mp4", "out.mp4"]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "frozen True\n" and "missing.mp4" in done.stderr


def test_an_error_inside_passes_and_no_thread_is_left(video):
    before = threading.active_count()
    with pytest.raises(ValueError, match="inside"):
        with early_start.begun(arguments(video, "out.mp4")):
            raise ValueError("inside")
    assert threading.active_count() == before


def test_nothing_heavy_is_imported_before_the_device_is_woken():
    code = """if True:
        import sys
        from stvsr_jax.inference import __main__, early_start
        args = __main__.make_parser("upscale").parse_args(["in.mp4", "out.mp4", "--overwrite"])
        heavy = lambda: [name for name in ("jax", "flax", "av") if name in sys.modules]
        early_start._start_processes = lambda: print(heavy()) or []
        early_start._wake_devices = lambda: print(heavy())
        early_start._load = lambda args, processes: print(heavy())
        with early_start.begun(args):
            pass
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['jax']", "['jax', 'av']"]


class Process:
    """The process of a device, of which what it is asked is noted."""

    def __init__(self):
        self.calls, self.ends = [], []

    def call(self, function, *args):
        self.calls.append((function, args))

    def kill(self):
        self.ends.append("killed")

    def wait(self):
        self.ends.append("waited")


@pytest.fixture
def platforms():
    before = jax.config.jax_platforms
    yield
    jax.config.update("jax_platforms", before)


def test_processes_of_several_gpus_load_the_programs_and_this_one_keeps_to_the_cpu(
    monkeypatch, platforms, video
):
    processes = [Process(), Process()]
    monkeypatch.setattr(early_start, "_start_processes", lambda: processes)
    monkeypatch.setattr(early_start, "_wake_devices", None)  # is not called
    jax.config.update("jax_platforms", None)
    args = arguments(video, "out.mp4")
    with early_start.begun(args) as given:
        assert given is processes and jax.config.jax_platforms == "cpu"
    early_start.remember(args, video, processes)
    facts = (early_start._describe(args),)
    loaded = early_start._begin_loading, facts
    assert processes[0].calls == [loaded, (early_start._remember, facts)] and processes[1].calls == [loaded]
    assert all(process.ends[:2] == ["killed", "waited"] for process in processes)


def test_processes_end_with_an_error_inside(monkeypatch, platforms, video):
    processes = [Process()]
    monkeypatch.setattr(early_start, "_start_processes", lambda: processes)
    with pytest.raises(ValueError, match="inside"), early_start.begun(arguments(video, "out.mp4")):
        raise ValueError("inside")
    assert processes[0].ends[:2] == ["killed", "waited"]


def test_processes_that_cannot_be_started_are_an_error(monkeypatch, platforms, video):
    def fail():
        raise OSError("no more processes")

    monkeypatch.setattr(early_start, "_start_processes", fail)
    with pytest.raises(OSError, match="no more processes"), early_start.begun(arguments(video, "out.mp4")):
        pass
