"""The encoder against its parts put together by hand, frame by frame and pair by pair."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax.models import encoder
from stvsr_jax.models.encoder import SpaceTimeEncoder
from stvsr_jax.models.layers import Conv, ResidualStack
from stvsr_jax.models.pcd import FeaturePyramid, PairFusion

# These tests spend their time compiling: leave the optimisation out.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SIZES = dict(features=4, groups=2)
ENCODER = SpaceTimeEncoder(**SIZES, front_blocks=1, back_blocks=2)


class RecurrentStandIn(nn.Module):
    """A recurrence in place of the ConvLSTM, which has its own tests and takes long to compile."""

    features: int
    groups: int
    remat: bool
    dtype: Any

    def __call__(self, x):
        return jnp.cumsum(x, axis=1) / 4


def encode_by_hand(params, frames):
    """Returns [B, 2N - 1, H, W, C] from the definition, with loops over frames and times."""

    @functools.partial(jit, static_argnums=(0, 1))
    def apply(module, name, *inputs):
        return module.apply({"params": params[name]}, *inputs)

    pyramids = []
    for n in range(frames.shape[1]):
        x = jax.nn.leaky_relu(apply(Conv(4), "conv_first", frames[:, n]), 0.1)
        x = apply(ResidualStack(4, 1), "front", x)
        pyramids.append(apply(FeaturePyramid(4), "pyramid", x))
    sequence = [pyramids[0][0]]
    for before, after in zip(pyramids[:-1], pyramids[1:], strict=True):
        sequence += [apply(PairFusion(**SIZES), "interpolate", before, after), after[0]]
    x = jnp.cumsum(jnp.stack(sequence, 1), axis=1) / 4
    return jnp.stack([apply(ResidualStack(4, 2), "back", x[:, t]) for t in range(len(sequence))], 1)


def test_encoder_equals_its_parts_frame_by_frame(monkeypatch):
    monkeypatch.setattr(encoder, "BidirectionalConvLSTM", RecurrentStandIn)
    rng = np.random.default_rng(0)
    frames = rng.uniform(size=(2, 3, 4, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(ENCODER.init, jax.random.key(0), frames)["params"]
    params = jax.tree.map(lambda s: (0.2 * rng.standard_normal(s.shape)).astype(np.float32), shapes)
    got = jit(ENCODER.apply)({"params": params}, frames)
    want = encode_by_hand(params, frames)
    assert got.shape == (2, 5, 4, 8, 4)
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("size", [(7, 8), (8, 6), (9, 10)])
def test_encoder_names_sizes_that_are_not_multiples_of_4(size):
    frames = jnp.zeros((1, 2, *size, 3))
    with pytest.raises(ValueError, match=f"multiples of 4, got {size[0]}x{size[1]}"):
        jax.eval_shape(ENCODER.init, jax.random.key(0), frames)


@pytest.mark.parametrize(
    ("shape", "named"),
    [((1, 1, 8, 8, 3), "N=1"), ((2, 8, 8, 3), r"\(2, 8, 8, 3\)"), ((1, 2, 8, 8, 1), r"\(1, 2, 8, 8, 1\)")],
)
def test_encoder_names_frames_of_a_wrong_shape(shape, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(ENCODER.init, jax.random.key(0), jnp.zeros(shape))
