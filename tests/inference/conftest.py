"""Small videos with sound, and networks whose output is known: nearest x scale in space, blends in time."""

import pathlib
import sys
import types
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pytest

import stvsr_jax
from stvsr_jax import models
from stvsr_jax.models.contract import choose_instants


class NearestZoomingSlowMo(nn.Module):
    """The signatures of ZoomingSlowMo."""

    dtype: Any = jnp.float32

    def encode(self, frames):
        between = (frames[:, 1:] + frames[:, :-1]) / 2
        steps = [
            frames[:, i // 2] if i % 2 == 0 else between[:, i // 2] for i in range(2 * frames.shape[1] - 1)
        ]
        return jnp.stack(steps, 1).repeat(4, axis=2).repeat(4, axis=3)

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        return choose_instants(encoded, times)


class NearestVideoINR(nn.Module):
    """The signatures of VideoINR."""

    dtype: Any = jnp.float32

    def encode(self, frames):
        return frames

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        height, width = encoded.shape[2:4]
        rows = jnp.floor((jnp.arange(out_size[0]) + 0.5) * height / out_size[0]).astype(int)
        columns = jnp.floor((jnp.arange(out_size[1]) + 0.5) * width / out_size[1]).astype(int)
        weight = times[:, :, None, None, None]
        blend = encoded[:, :1] * (1 - weight) + encoded[:, 1:] * weight
        return blend[:, :, rows][:, :, :, columns]


FAKES = {"zooming_slowmo": NearestZoomingSlowMo, "videoinr": NearestVideoINR}


@pytest.fixture
def fake_models():
    return {name: fake() for name, fake in FAKES.items()}


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Makes the command line find fake networks in folders named after the models: {name: folder}."""

    def load_for_inference(directory, **kwargs):
        return types.SimpleNamespace(model_name=pathlib.Path(directory).name, model_kwargs={}, params={})

    module = types.ModuleType("stvsr_jax.checkpoint")
    module.load_for_inference = load_for_inference
    monkeypatch.setitem(sys.modules, "stvsr_jax.checkpoint", module)
    monkeypatch.setattr(stvsr_jax, "checkpoint", module, raising=False)
    monkeypatch.setattr(models, "build", lambda name, **kwargs: FAKES[name](**kwargs))
    folders = {name: tmp_path / "checkpoints" / name for name in FAKES}
    for folder in folders.values():
        folder.mkdir(parents=True)
    return folders
