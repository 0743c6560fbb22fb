"""Computing in 16 bits (parameters float32) against float32: the published networks' outputs, and a loss curve."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stvsr_jax import models
from stvsr_jax.models import from_torch
from tests.models.test_parity import PARITY, published_tensors

# Rounding errors of about 2**-9 a layer add up; Zooming Slow-Mo has 45 residual blocks and 7 recurrent steps in a
# row, and its reference weights amplify them more than trained ones. VideoINR's colours come from an MLP whose
# sines are float32.
LIMITS = {"zooming_slowmo": 2.5e-2, "videoinr": 5e-3}
FINER = 7  # float16 has eight times bfloat16's precision


@pytest.mark.parametrize(
    ("dtype", "finer"),
    [(jnp.bfloat16, 1), pytest.param(jnp.float16, FINER, marks=pytest.mark.heavy)],
    ids=["bfloat16", "float16"],
)
@pytest.mark.parametrize("name", sorted(LIMITS))
def test_output_is_close_to_the_published_one_in_float32(name, dtype, finer):
    fixture = np.load(PARITY / f"{name}.npz")
    params = from_torch.convert(name, published_tensors(name))
    frames = fixture["input"].astype(np.float32) / 255
    want = fixture["output"]  # of the published network, in float32
    times = fixture["times"] if "times" in fixture else np.linspace(0, 1, want.shape[1], dtype="f")[None]
    model = models.build(name, dtype=dtype)
    render = jax.jit(lambda p, f: models.render(model, p, f, times, out_size=want.shape[2:4]))
    error = np.linalg.norm(render(params, frames) - want) / np.linalg.norm(want)
    print(f"{name}: relative L2 error of {jnp.dtype(dtype)}: {error:.2e}")
    assert 0 < error < LIMITS[name] / finer


def moving_patterns(seed, count, size):
    """Returns target [B, 3, 4 size, 4 size, 3]: smooth waves that move, and frames 0 and 2 at a quarter."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: 4 * size, : 4 * size] / (4 * size)
    clips = []
    for _ in range(count):
        fy, fx, phase, speed = (
            rng.uniform(2, 12),
            rng.uniform(2, 12),
            rng.uniform(0, 6, 3),
            rng.uniform(-1, 1),
        )
        clips.append(
            [0.5 + 0.4 * np.sin(fy * y[..., None] + fx * x[..., None] + phase + speed * t) for t in range(3)]
        )
    target = np.asarray(clips, np.float32)
    low = target[:, ::2].reshape(count, 2, size, 4, size, 4, 3).mean(axis=(3, 5))
    return low, target


@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted(LIMITS))
def test_training_follows_the_float32_loss_curve(name):
    sizes = dict(features=16, front_blocks=1, back_blocks=2, groups=4)
    optimizer = optax.adam({"zooming_slowmo": 1e-3, "videoinr": 1e-4}[name])
    times = jnp.tile(jnp.array([0.0, 0.5, 1.0]), (4, 1))

    def train(dtype):
        model = models.build(name, dtype=dtype, **sizes)
        params = jax.jit(lambda key: models.init_params(model, key))(jax.random.key(0))

        @jax.jit
        def step(params, state, low, target):
            def loss_fn(params):
                out = models.render(model, params, low, times, out_size=target.shape[2:4])
                return jnp.mean(jnp.sqrt((out - target) ** 2 + 1e-6))

            loss, grads = jax.value_and_grad(loss_fn)(params)
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state, loss

        state, losses = optimizer.init(params), []
        for i in range(40):
            params, state, loss = step(params, state, *moving_patterns(i, 4, 16))
            losses.append(float(loss))
        return np.array(losses).reshape(4, 10).mean(axis=1)

    want, got = train(jnp.float32), train(jnp.bfloat16)
    print(name, "float32", np.round(want, 4), "bfloat16", np.round(got, 4))
    assert want[-1] < 0.7 * want[0]
    np.testing.assert_allclose(got, want, rtol=0.05)
