"""Networks for the processes of devices, which import them from here, and a command line that has such processes.

As a script: `device_fakes.py COUNT ARGS`, the command line with the network below in so many processes, 0 for none.
It takes 50 ms for a call.
"""

import os
import sys
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax.inference import device_processes, predictor
from stvsr_jax.inference.__main__ import main
from stvsr_jax.models.contract import choose_instants

SLOW = "STVSR_TEST_SECONDS"  # that each call takes


class Blend(nn.Module):
    """Repeats pixels and blends in time, times a parameter; the signatures of ZoomingSlowMo.

    Memory runs out for frames with a side of more than `most` pixels.
    """

    dtype: Any = jnp.float32
    most: int | None = None

    @nn.compact
    def encode(self, frames):
        side = max(frames.shape[2:4])
        if self.most is not None and side > self.most:
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {side} is too much")
        gain = self.param("gain", nn.initializers.ones, ())
        between = (frames[:, 1:] + frames[:, :-1]) / 2
        steps = [
            frames[:, i // 2] if i % 2 == 0 else between[:, i // 2] for i in range(2 * frames.shape[1] - 1)
        ]
        return (gain * jnp.stack(steps, 1).astype(self.dtype)).repeat(4, axis=2).repeat(4, axis=3)

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        return choose_instants(encoded, times).astype(jnp.float32)


def slowly(render):
    def predict(*args, **kwargs):
        time.sleep(float(os.environ.get(SLOW, 0)))
        return render(*args, **kwargs)

    return predict


# In the process of a device, too, which imports this module for the network.
predictor.Predictor.predict_windows = slowly(predictor.Predictor.predict_windows)


def make_predictor(*, dtype=jnp.float32, most=None, **kwargs):
    return predictor.Predictor(
        "zooming_slowmo", Blend(dtype=dtype, most=most), {"gain": jnp.float32(0.875)}, **kwargs
    )


def size_of_cache(network):
    return jax.config.jax_compilation_cache_max_size


if __name__ == "__main__":
    from tests.inference import device_fakes

    count = int(sys.argv.pop(1))
    os.environ.setdefault(SLOW, "0.05")
    device_processes.count_needed = lambda: count
    predictor.Predictor.from_pretrained = lambda source, *, weights, **kwargs: device_fakes.make_predictor(
        **kwargs
    )
    sys.exit(main())
