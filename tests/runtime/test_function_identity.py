"""Functions are described by what they are made of, the same in every process and differently for every difference."""

import functools
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.runtime import sharding
from stvsr_jax.runtime.function_identity import describe
from stvsr_jax.training import optim, train_step, validation


def make(factor, inner=None):
    """Return a closure."""

    def scale(x, offset=0.0):
        return factor * (x if inner is None else inner(x)) + offset

    return scale


class Thing:
    """An object without a description."""

    def __init__(self, value):
        self.value = value


VALUES = [
    *(1, 1.0, True, "1", b"1", None, (1,), [1], {1}, {1: 2}, {2: 1}, {1: 3}, (1, (2, 3)), ((1, 2), 3), ...),
    *(np.float32, jnp.float32, np.dtype("float32"), np.float32(1), np.float64(1), np.sin, np.cos, np, jnp),
    *(
        np.arange(3),
        np.arange(3.0),
        np.arange(3.0)[:, None],
        np.arange(1.0, 4.0),
        len,
        functools.partial(max, 1),
    ),
    *(
        make(1),
        make(2),
        make(1, make(1)),
        make(1, make(2)),
        lambda x: x,
        lambda x: x + 1,
        functools.partial(max, 2),
    ),
    *(
        nn.Dense(3),
        nn.Dense(4),
        nn.Dense(3, dtype=jnp.bfloat16),
        Thing(1),
        Thing(2),
        Thing(1).__init__,
        Thing,
    ),
    *(jax.jit(make(1)), jax.jit(make(2)), jax.sharding.PartitionSpec("a"), jax.sharding.PartitionSpec("b")),
]


def test_any_two_of_these_differ_alone_and_in_a_closure():
    alone = [describe(value) for value in VALUES]
    inside = [describe(make(value)) for value in VALUES]
    assert len(set(alone)) == len(set(inside)) == len(VALUES)
    assert alone == [describe(value) for value in VALUES]


def test_equal_closures_are_described_alike():
    assert describe(make(2, make(3))) == describe(make(2, make(3)))
    assert describe(make({"a": 1, "b": np.ones(2)})) == describe(make({"a": 1, "b": np.ones(2)}))


def test_defaults_and_functions_that_contain_themselves_count():
    def make_recursive(depth):
        def count(n, step=depth):
            return 0 if n == 0 else count(n - step)

        return count

    assert describe(make_recursive(1)) == describe(make_recursive(1)) != describe(make_recursive(2))


@pytest.mark.parametrize("value", [object(), jnp.ones(3), (1, [object()])])
def test_what_differs_in_each_process_is_refused(value):
    with pytest.raises(ValueError, match="factor of it, .*differs in|factor of it is an array"):
        describe(make(value))


def describe_steps():
    """Return descriptions of a training step and a scoring step."""
    config = optim.OptimizerConfig(1e-4, 1e-7, 100, 0.9, 0.99, clip_norm=10.0, ema_decay=0.99)
    mesh = sharding.make_mesh()
    model = models.build("videoinr", dtype=jnp.bfloat16)
    loss = train_step.LossConfig("charbonnier", "mean")
    step = train_step.make_train_step(model, optim.make_optimizer(config), loss, mesh)
    return describe(step._function), describe(validation.make_eval_step(model, mesh)._function)


def test_steps_are_described_alike_in_another_process():
    script = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('t', sys.argv[1]); "
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t); print(t.describe_steps(), end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, __file__], capture_output=True, text=True, check=True
    )
    assert done.stdout == repr(describe_steps())


def test_every_setting_of_a_training_step_is_in_its_description():
    model, loss = models.build("videoinr"), train_step.LossConfig("charbonnier", "mean")
    fields = dict(
        learning_rate=1e-3,
        final_learning_rate=0.0,
        cycle_steps=7,
        b1=0.8,
        b2=0.9,
        clip_norm=1.0,
        offset_rate=0.5,
    )
    plain = optim.OptimizerConfig(1e-4, 1e-7, 100, 0.9, 0.99)
    configs = [plain] + [
        optim.OptimizerConfig(**{**vars(plain), name: value}) for name, value in fields.items()
    ]
    variants = [dict(optimizer=optim.make_optimizer(config)) for config in configs]
    variants += [dict(model=models.build("videoinr", remat=True))]
    variants += [
        dict(loss=train_step.LossConfig("l1", "mean")),
        dict(loss=train_step.LossConfig("charbonnier", "sum")),
    ]
    variants += [dict(micro_batches=2), dict(ema_decay=0.5), dict(rollback_rate=0.5)]
    found = set()
    for variant in variants:
        given = (
            dict(model=model, optimizer=variants[0]["optimizer"], loss=loss, mesh=sharding.make_mesh())
            | variant
        )
        step = train_step.make_train_step(
            *[given.pop(k) for k in ("model", "optimizer", "loss", "mesh")], **given
        )
        found.add(describe(step._function))
    assert len(found) == len(variants)


def test_code_from_elsewhere_counts_by_its_file(tmp_path):
    found = []
    for number in (1, 2):
        file = tmp_path / "network_of_my_own.py"
        file.write_text(f"class Network:\n    def __call__(self, x):\n        return {number} * x\n")
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        found.append(done.stdout.splitlines())
    assert found[0][0] != found[1][0]
    for lines in found:
        assert "network_of_my_own.py was changed" in lines[1]


SCRIPT = """
import os, sys
sys.path.insert(0, "")
sys.dont_write_bytecode = True
import network_of_my_own
os.utime("network_of_my_own.py", (1e9, 1e9))
from stvsr_jax.runtime.function_identity import describe
print(describe(network_of_my_own.Network))
os.utime("network_of_my_own.py", (4e9, 4e9))
try:
    describe(network_of_my_own.Network)
except ValueError as error:
    print(error)
"""
