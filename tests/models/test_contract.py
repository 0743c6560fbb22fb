"""What follows from a network's contract."""

import dataclasses
import subprocess
import sys
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.models import contract

FIXED, FREE = models.contract_of("zooming_slowmo"), models.contract_of("videoinr")


@pytest.mark.parametrize(
    ("steps", "counts", "words"),
    [(1, (1,), "1 frame"), (2, (1, 2), "1 or 2 frames"), (6, (1, 2, 3, 6), "1, 2, 3 or 6 frames")],
)
def test_frame_counts_divide_the_steps(steps, counts, words):
    network = dataclasses.replace(FIXED, steps=steps)
    assert (network.frame_counts, network.name_counts()) == (counts, words)
    assert [time for time in range(8) if network.can_make(space=4, time=time)] == list(counts)


def test_fixed_network_makes_its_scale_and_its_instants_only():
    assert not FIXED.can_make(space=2, time=2) and not FIXED.is_free
    assert FIXED.can_render(1.5) and FIXED.can_render(Fraction(1, 2)) and not FIXED.can_render(Fraction(1, 3))
    assert FIXED.count_instants(4) == 7


def test_free_network_makes_anything():
    assert FREE.is_free and FREE.frame_counts is None
    assert FREE.can_make(space=2.7, time=5) and FREE.can_render(Fraction(1, 3))


def test_pairs_are_the_only_window_of_fixed_length():
    assert FIXED.takes_any_window and not FREE.takes_any_window


def test_instants_are_chosen_for_each_clip():
    rendered = jnp.arange(14.0).reshape(2, 7, 1)
    times = jnp.array([[0, 1 / 6, 1], [0.5, 0.5, 5 / 6]])
    chosen = contract.choose_instants(rendered, times)
    np.testing.assert_array_equal(chosen[..., 0], [[0, 1, 6], [10, 10, 12]])


def test_unknown_name_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="'edvr'.*videoinr.*zooming_slowmo"):
        models.contract_of("edvr")


def test_networks_that_can_do_anything_are_listed():
    assert models.list_free() == ["videoinr"]


def test_reading_a_contract_builds_no_network():
    script = """
import flax.linen as nn
built = []
init = nn.Module.__post_init__
nn.Module.__post_init__ = lambda self: (built.append(type(self).__name__), init(self))[1]
from stvsr_jax import models
assert [models.contract_of(name).window_size for name in models.MODELS] == [4, 2]
assert not built, built
models.build("videoinr")
assert built == ["VideoINR"]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_benchmark_takes_sizes_that_are_given_and_counts_fixed_instants():
    shape = FIXED.benchmark_shape(is_training=False, batch=None, frames=3, height=10, width=20, times=99)
    assert shape == contract.BatchShape(batch=1, frames=3, height=10, width=20, times=5, scale=4)
    assert shape.out_size == (40, 80) and str(shape) == "1 x 3x10x20 -> 5x40x80"
    assert FREE.benchmark_shape(is_training=True, times=2) == contract.BatchShape(24, 2, 32, 32, 2)
