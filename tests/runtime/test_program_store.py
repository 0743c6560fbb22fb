"""Compiled programs are found again by another process, and only where they would be the same."""

import concurrent.futures
import math
import os
import pickle
import subprocess
import sys
import threading
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import stvsr_jax
from stvsr_jax.runtime import compilation, program_store
from tests.limits import HANG


@pytest.fixture(autouse=True)
def directory(monkeypatch, tmp_path):
    """Keep programs in a directory of the test, as on an accelerator."""
    traced.clear()
    monkeypatch.setattr(program_store, "_used", {})
    monkeypatch.setattr(program_store, "_begun", {})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(compilation, "options", dict)
    # JAX's own cache is there, too, and would keep everything.
    ours = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in ours}
    compilation_cache.reset_cache()
    for name, value in ours.items():
        jax.config.update(name, value)
    yield tmp_path / "programs"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


traced = []  # the factor, whenever a program is traced


def make_scale(factor, **settings):
    """Return a program that multiplies."""

    def scale(tree, power=1):
        traced.append(factor)
        return jax.tree.map(lambda x: factor * x**power, tree)

    return compilation.jit(scale, static_argnames=("power",), **settings)


def test_a_program_is_loaded_without_being_traced(directory):
    tree = {"a": jnp.arange(3.0), "b": np.float32(2.0)}
    first = make_scale(3.0)
    expected = first(tree, power=2)
    assert traced == [3.0] and len(list(directory.iterdir())) == 1
    second = make_scale(3.0)
    for _ in range(2):
        jax.tree.map(np.testing.assert_array_equal, second(tree, power=2), expected)
    assert traced == [3.0]
    np.testing.assert_array_equal(expected["a"], [0.0, 3.0, 12.0])


@pytest.mark.parametrize(
    "change",
    [
        dict(factor=5.0),
        dict(argument=jnp.arange(4.0)),
        dict(argument=jnp.arange(3)),
        dict(argument=(jnp.arange(3.0),)),
        dict(power=2),
        dict(settings=dict(keep_unused=True)),
        dict(environment=("XLA_FLAGS", "--xla_embed_ir_in_executable=true")),
        dict(code="other"),
        dict(processor=["flags: other"]),
        dict(precision="highest"),
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_difference_makes_another_program(directory, monkeypatch, change):
    make_scale(3.0)(jnp.arange(3.0))
    if "environment" in change:
        monkeypatch.setenv(*change["environment"])
    if "code" in change:
        monkeypatch.setattr(program_store, "_CODE", change["code"])
        monkeypatch.setattr(program_store, "digest_of_code", lambda: change["code"])
    if "processor" in change:
        monkeypatch.setattr(program_store, "_describe_processor", lambda: change["processor"])
    with jax.default_matmul_precision(change.get("precision", "default")):
        other = make_scale(change.get("factor", 3.0), **change.get("settings", {}))
        other(change.get("argument", jnp.arange(3.0)), power=change.get("power", 1))
    assert traced == [3.0, change.get("factor", 3.0)] and len(list(directory.iterdir())) == 2


def test_code_that_was_edited_meanwhile_is_kept_under_no_name(directory, monkeypatch):
    monkeypatch.setattr(program_store, "digest_of_code", lambda: "edited")
    with pytest.warns(UserWarning, match="not kept: the package's files were changed"):
        result = make_scale(3.0)(jnp.arange(3.0))
    np.testing.assert_array_equal(result, [0.0, 3.0, 6.0])
    assert not directory.exists()


EDITS = """
import pathlib, sys, shutil, tempfile
folder = pathlib.Path(tempfile.mkdtemp())
shutil.copytree(sys.argv[1], folder / "stvsr_jax")
sys.path.insert(0, str(folder))
from stvsr_jax.runtime import program_store
before = program_store._CODE
assert before == program_store.digest_of_code()
(folder / "stvsr_jax" / "ops" / "sampling.py").open("a").write("# other")
assert program_store._CODE == before != program_store.digest_of_code()
shutil.rmtree(folder)
"""


def test_code_counts_as_it_was_imported():
    package = os.path.dirname(stvsr_jax.__file__)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", EDITS, package], check=True, env=environment, cwd="/")


def test_threads_leave_the_setting_of_jax_as_it_was():
    name = "jax_persistent_cache_min_compile_time_secs"
    jax.config.update(name, 2.5)
    steps = [threading.Barrier(2) for _ in range(3)]

    def first():
        with program_store.without_jax_cache():
            steps[0].wait()  # both are inside
            steps[1].wait()
        steps[2].wait()

    def second():
        with program_store.without_jax_cache():
            steps[0].wait()
            steps[1].wait()
            steps[2].wait()  # the first has left
            assert getattr(jax.config, name) == math.inf

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(first), pool.submit(second)]:
            future.result(timeout=HANG)
    assert getattr(jax.config, name) == 2.5


def test_of_several_threads_one_compiles(directory):
    scale = make_scale(3.0)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: scale(jnp.arange(3.0)), range(8)))
    for result in results:
        np.testing.assert_array_equal(result, [0.0, 3.0, 6.0])
    assert traced == [3.0]


MAKES = """
import os, pathlib, sys, time
import jax, jax.numpy as jnp
from stvsr_jax.runtime import compilation, program_store
folder = pathlib.Path(sys.argv[1])
jax.default_backend = lambda: "gpu"
compilation.options = dict
jax.config.update("jax_compilation_cache_dir", str(folder))
def scale(x):
    pathlib.Path(sys.argv[1], f"traced-{os.getpid()}").touch()
    time.sleep(1)
    return 3 * x
(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < 3:
    time.sleep(0.01)
assert (compilation.jit(scale)(jnp.arange(3.0)) == jnp.array([0.0, 3.0, 6.0])).all()
"""


def test_of_several_processes_one_compiles(directory, tmp_path):
    script = tmp_path / "makes.py"
    script.write_text(MAKES)
    command = [sys.executable, str(script), str(tmp_path)]
    started = [subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}) for _ in range(3)]
    assert [process.wait(HANG) for process in started] == [0] * 3
    assert len(list(tmp_path.glob("traced-*"))) == 1 and len(list(directory.iterdir())) == 1


def test_where_no_file_can_be_locked_each_compiles(directory, tmp_path):
    (tmp_path / "making").write_text("no folder")
    np.testing.assert_array_equal(make_scale(3.0)(jnp.arange(3.0)), [0.0, 3.0, 6.0])
    make_scale(3.0)(jnp.arange(3.0))
    assert traced == [3.0] and len(list(directory.iterdir())) == 1


@pytest.mark.parametrize("damage", [lambda file: b"", lambda file: file[:200], lambda file: pickle.dumps(1)])
def test_a_damaged_file_is_made_again(directory, damage):
    make_scale(3.0)(jnp.arange(3.0))
    (file,) = directory.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match="is removed and made again.*cannot be used"):
        result = make_scale(3.0)(jnp.arange(3.0))
    np.testing.assert_array_equal(result, [0.0, 3.0, 6.0])
    make_scale(3.0)(jnp.arange(3.0))
    assert traced == [3.0, 3.0]


def fail_when_loaded(monkeypatch, message, runs=1):
    """Let every loaded program fail in its `runs`-th run; returns which runs there were."""
    load, tried = program_store.serialize_executable.deserialize_and_load, []

    def load_badly(*args, **kwargs):
        compiled, count = load(*args, **kwargs), 0

        def run(*args, **kwargs):
            nonlocal count
            count += 1
            tried.append(count)
            if count >= runs:
                raise jax.errors.JaxRuntimeError(message)
            return compiled(*args, **kwargs)

        known = {"args_info": compiled.args_info, "input_shardings": compiled.input_shardings}
        return mock.Mock(side_effect=run, **known)

    monkeypatch.setattr(program_store.serialize_executable, "deserialize_and_load", load_badly)
    return tried


@pytest.mark.parametrize("runs", [1, 2])  # the second changes a CUDA graph
def test_a_loaded_program_that_fails_is_dropped_and_made_again(directory, monkeypatch, runs):
    def make():
        def count_up(state, x):
            traced.append("count_up")
            return {"sum": state["sum"] + x}

        return compilation.jit(count_up, donate_argnums=0)

    make()({"sum": jnp.zeros(3)}, np.float32(1))
    tried = fail_when_loaded(monkeypatch, "UNKNOWN: <unknown cudnn status: 5003>\nat many places", runs)
    step, state = make(), {"sum": jnp.arange(3.0)}
    with pytest.warns(UserWarning, match="made again.*5003>$") as warned:
        state = step(state, np.float32(1))
    state = step(state, np.float32(1))
    # What the step consumes was there for the program made again.
    np.testing.assert_array_equal(state["sum"], [2.0, 3.0, 4.0])
    assert len(warned) == 1 and tried == [1, 2][:runs] and traced == ["count_up"] * 2
    assert len(list(directory.iterdir())) == 1


def test_a_loaded_program_consumes_its_arguments_only_when_called(directory):
    def step(state, x):
        return state + x

    for _ in range(2):
        state = jnp.arange(3.0)
        result = compilation.jit(step, donate_argnums=0)(state, np.float32(1))
        np.testing.assert_array_equal(result, [1.0, 2.0, 3.0])
        assert state.is_deleted()


def test_a_loaded_program_that_lacks_memory_stays(directory, monkeypatch):
    make_scale(3.0)(jnp.arange(3.0))
    fail_when_loaded(monkeypatch, "RESOURCE_EXHAUSTED: Out of memory")
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):  # of the call itself
        make_scale(3.0)(jnp.arange(3.0))
    assert len(list(directory.iterdir())) == 1


def remembered(directory):
    """Remember a program as of a job, forget that it was used, and return its file."""
    program_store._used.clear()
    make_scale(3.0)({"a": jnp.arange(3.0), "unused": np.zeros(2)}, power=2)
    (file,) = directory.iterdir()
    program_store.remember("a job", jax.devices()[:1])
    assert len(list(directory.iterdir())) == 2
    program_store._used.clear()
    return file


def test_remembered_programs_are_loaded_side_by_side_and_found(directory):
    remembered(directory)
    for factor in (3.0, 4.0):
        make_scale(factor)({"a": jnp.arange(3.0), "unused": np.zeros(2)}, power=2)
    program_store.remember("a job", jax.devices()[:1])
    program_store.begin_loading("a job", jax.devices()[:1])
    assert not program_store._begun  # this process has used them
    program_store._used.clear()
    program_store.begin_loading("a job", jax.devices()[:1])
    assert len(program_store._begun) == 2
    loaded = [future.result(timeout=HANG) for future in program_store._begun.values()]
    traced.clear()
    found = []
    for factor in (3.0, 4.0):
        scale = make_scale(factor)
        result = scale({"a": jnp.arange(3.0), "unused": np.zeros(2)}, power=2)
        np.testing.assert_array_equal(result["a"], factor * np.arange(3.0) ** 2)
        found += scale._compiled.values()
    assert traced == [] and not program_store._begun and set(found) == set(loaded)


def test_a_remembered_program_that_is_damaged_is_made_again(directory):
    file = remembered(directory)
    file.write_bytes(file.read_bytes()[:200])
    program_store.begin_loading("a job", jax.devices()[:1])
    with pytest.warns(UserWarning, match="is removed and made again"):
        result = make_scale(3.0)({"a": jnp.arange(3.0), "unused": np.zeros(2)}, power=2)
    np.testing.assert_array_equal(result["a"], [0.0, 3.0, 12.0])


def test_a_remembered_program_that_fails_is_made_again(directory, monkeypatch):
    remembered(directory)
    tried = fail_when_loaded(monkeypatch, "UNKNOWN: <unknown cudnn status: 5003>")
    program_store.begin_loading("a job", jax.devices()[:1])
    with pytest.warns(UserWarning, match="made again.*5003>$"):
        result = make_scale(3.0)({"a": jnp.arange(3.0), "unused": np.zeros(2)}, power=2)
    np.testing.assert_array_equal(result["a"], [0.0, 3.0, 12.0])
    assert tried == [1]


def test_a_remembered_program_that_is_gone_or_not_needed_does_nothing(directory, recwarn):
    remembered(directory).unlink()
    program_store.begin_loading("another job", jax.devices()[:1])
    assert not program_store._begun
    program_store.begin_loading("a job", jax.devices()[:1])
    make_scale(5.0)(jnp.arange(3.0))
    result = make_scale(3.0)({"a": jnp.arange(3.0), "unused": np.zeros(2)}, power=2)
    np.testing.assert_array_equal(result["a"], [0.0, 3.0, 12.0])
    assert not recwarn.list


def test_a_full_disk_does_not_stop_a_run(directory, monkeypatch):
    def serialize(compiled):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program_store.serialize_executable, "serialize", serialize)
    with pytest.warns(UserWarning, match="is not kept: .*No space left"):
        result = make_scale(3.0)(jnp.arange(3.0))
    np.testing.assert_array_equal(result, [0.0, 3.0, 6.0])


def test_programs_not_used_for_longest_go_first(directory, monkeypatch):
    for number in range(3):
        make_scale(number + 2.0)(jnp.arange(3.0))
    oldest, used, newest = sorted(directory.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for age, file in enumerate((newest, used, oldest)):
        os.utime(file, (1e9 - age, 1e9 - age))
    make_scale(2.0)(jnp.arange(3.0))  # now used last
    assert traced == [2.0, 3.0, 4.0]
    size = oldest.stat().st_size
    monkeypatch.setattr(program_store, "_LIMIT", 2.5 * size)
    make_scale(5.0)(jnp.arange(3.0))
    assert oldest.exists() and not used.exists() and len(list(directory.iterdir())) == 2


def test_a_program_that_another_process_removes_meanwhile_is_passed_over(directory, recwarn):
    directory.mkdir()
    (directory / "removed").symlink_to("nowhere")
    make_scale(3.0)(jnp.arange(3.0))
    assert len(list(directory.iterdir())) == 2 and not recwarn.list


@pytest.mark.parametrize("is_kept", [False, True])
def test_nothing_is_kept_unasked_or_on_cpus(directory, monkeypatch, is_kept):
    if is_kept:
        monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    for _ in range(2):
        make_scale(3.0, is_kept=is_kept)(jnp.arange(3.0))
    assert traced == [3.0, 3.0] and not directory.exists()


class Pair:
    """Two arrays and what is known of them."""

    def __init__(self, arrays, known):
        self.arrays, self.known = arrays, known


jax.tree_util.register_pytree_node(
    Pair, lambda pair: (pair.arrays, pair.known), lambda known, arrays: Pair(arrays, known)
)


def test_arguments_that_cannot_be_told_from_others_are_not_kept(directory):
    with pytest.warns(UserWarning, match="are not kept: its arguments differ in each process"):
        result = make_scale(3.0)(Pair([jnp.arange(3.0)], object()))
    np.testing.assert_array_equal(result.arrays[0], [0.0, 3.0, 6.0])
    assert not directory.exists()


def test_what_cannot_be_told_from_others_is_not_kept(directory):
    with pytest.warns(
        UserWarning, match="programs of .*make_scale.*scale are not kept: factor of .*is an array"
    ):
        result = make_scale(jnp.float32(3.0))(jnp.arange(3.0))
    np.testing.assert_array_equal(result, [0.0, 3.0, 6.0])
    assert not directory.exists()


SCRIPT = """
import sys, jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from stvsr_jax import models
from stvsr_jax.training import optim, train_state, train_step
from stvsr_jax.runtime import compilation, sharding

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.default_backend = lambda: "gpu"
import importlib.util
spec = importlib.util.spec_from_file_location("linear_config", sys.argv[2])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
sharding._MIN_SPLIT_SIZE = 4096
model = models.build("linear", features=2048)
mesh = sharding.make_mesh(fsdp=4)
config = optim.OptimizerConfig(1e-3, 1e-7, 100, 0.9, 0.99)
optimizer = optim.make_optimizer(config)
state = train_state.create_on(mesh, train_state.draw_params(model, jax.random.key(0)), optimizer, has_ema=True)
step = train_step.make_train_step(
    model, optimizer, train_step.LossConfig("charbonnier", "mean"), mesh
)
if sys.argv[3] == "again":
    step.jitted = None  # it is not to be needed
shapes = {"frames": (4, 2, 4, 8, 3), "target": (4, 3, 16, 32, 3), "times": (4, 3)}
batch = {k: jax.device_put(jnp.ones(s), sharding.batch_sharding(mesh)) for k, s in shapes.items()}
for _ in range(3):
    state, numbers = step(state, batch)
print(len(step._compiled), float(numbers["loss"]))
"""


def test_a_training_step_on_four_devices_is_found_by_the_next_process(tmp_path):
    config = os.path.join(os.path.dirname(__file__), "..", "linear_config.py")
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), config, which],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for which in ("first", "again")
    ]
    # The state that a step returns goes into the same program.
    assert outputs[0] == outputs[1] and outputs[0].split()[0] == "1"
