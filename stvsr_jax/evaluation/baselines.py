"""What needs no network, to be measured beside them: one rule for space, one for time.

bicubic_blend    MATLAB's bicubic; between two given frames their mean, weighted by nearness in time
bicubic_repeat   MATLAB's bicubic; the last given frame is held
bilinear_blend   bilinear, pixel centres at half-integers; time as in bicubic_blend
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax import ops
from stvsr_jax.inference import predictor, programs

BASELINES = {
    "bicubic_blend": ("bicubic", "blend"),
    "bicubic_repeat": ("bicubic", "repeat"),
    "bilinear_blend": ("bilinear", "blend"),
}
WINDOW_SIZE = 2


class Baseline:
    """One of `BASELINES`, used as a `predictor.Predictor`.

    Attributes:
      window_size: frames `predict` takes.
      tile: 0, frames are whole.
    """

    window_size = WINDOW_SIZE
    tile = 0

    def __init__(self, name: str):
        self._rules = BASELINES[name]

    def predict(
        self, frames: np.ndarray, times: Sequence[float], *, space: float, rounded: bool = True
    ) -> np.ndarray:
        """Renders instants of a window; see `predictor.Predictor.predict`."""
        return np.asarray(
            _render(
                frames,
                np.array([float(time) for time in times], np.float32),
                out_size=predictor.output_size(*frames.shape[1:3], space),
                rules=self._rules,
                rounded=rounded,
            )
        )


@functools.partial(jax.jit, static_argnames=("out_size", "rules", "rounded"))
def _render(frames, times, *, out_size, rules, rounded):
    """[N, H, W, 3] and [T] in given frames -> [T, H', W', 3]."""
    space, time = rules
    frames = programs.to_unit(frames)
    if space == "bicubic":
        large = ops.imresize(frames, out_size=out_size)
    else:
        large = jax.image.resize(frames, (len(frames), *out_size, 3), "bilinear", precision="highest")
    if time == "blend":
        rendered = ops.interpolate_frames(large[None], times[None])[0]
    else:
        rendered = large[jnp.floor(times).astype(jnp.int32)]
    return programs.to_uint8(rendered) if rounded else rendered
