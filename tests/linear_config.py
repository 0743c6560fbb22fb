"""A config whose network is two small matrices, so that a run compiles in a second.

`python -m stvsr_jax.main --config tests/linear_config.py --config.data.path=FOLDER`; tests take it from the
fixtures of tests/conftest.py. The network has the signature and the output size of Zooming Slow-Mo.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from stvsr_jax import models
from stvsr_jax.models.contract import accept_fields, choose_instants


def enlarge(frames):
    """Repeat pixels and blend neighbours in time: [B, N, H, W, 3] -> [B, 2N - 1, 4H, 4W, 3]."""
    between = (frames[:, 1:] + frames[:, :-1]) / 2
    count = 2 * frames.shape[1] - 1
    steps = [frames[:, n // 2] if n % 2 == 0 else between[:, n // 2] for n in range(count)]
    return jnp.stack(steps, axis=1).repeat(4, axis=2).repeat(4, axis=3)


class Linear(nn.Module):
    """Colours of the enlarged frames times `into` [3, features], times `out` [features, 3]."""

    contract = dataclasses.replace(models.contract_of("zooming_slowmo"), check_fields=accept_fields)

    features: int = 4
    dtype: Any = jnp.float32

    def __call__(self, frames, times, *, out_size, chunk_rows=None):
        return self.encode(frames)

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        return choose_instants(encoded, times)

    @nn.compact
    def encode(self, frames):
        into = self.param("into", nn.initializers.normal(0.5), (3, self.features))
        out = self.param("out", nn.initializers.normal(0.5), (self.features, 3))
        return (enlarge(frames).astype(self.dtype) @ into @ out).astype(jnp.float32)


models.MODELS["linear"] = Linear


def get_config() -> ConfigDict:
    """Returns a run of four steps on windows of three frames."""
    return ConfigDict(
        {
            "model": {"name": "linear", "features": 4},
            "dtype": "float32",
            "data": {
                "path": "",
                "strict": False,
                "cache_dir": "",
                "cache_gb": 0.0,
                "cut_threshold": 0.0,
                "recipe": {
                    "name": "zooming_slowmo",
                    "window": 3,
                    "scale": 4,
                    "lr_crop": 4,
                    "hr_reduce": 1,
                    "time_stride": 1,
                },
                "degrade": "",
                "batch_size": 2,
                "num_workers": 0,
                "split": "time",
                "validation_fraction": 0.25,
                "validation_windows": 2,
                "validation_crop": 4,
            },
            "optimizer": {
                "learning_rate": 1e-2,
                "final_learning_rate": 1e-4,
                "cycle_steps": 100,
                "b1": 0.9,
                "b2": 0.99,
                "clip_norm": 0.0,
                "offset_rate": 1.0,
                "ema_decay": 0.0,
            },
            "loss": {"name": "charbonnier", "reduction": "mean"},
            "train": {
                "num_steps": 4,
                "micro_batches": 1,
                "log_every": 1,
                "eval_every": 2,
                "checkpoint_every": 2,
                "keep_checkpoints": 3,
                "keep_every": 0,
                "num_panels": 0,
                "max_skipped_steps": 2,
                "max_rollbacks": 0,
                "rollback_rate": 0.5,
                "concurrent_kernels": False,
            },
            "mesh": {"fsdp": 1},
            "seed": 0,
            "init_from": "",
        }
    )
