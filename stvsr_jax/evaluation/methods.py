"""What is measured: a network with its weights or a baseline, identified by a digest of its weights."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from stvsr_jax import models
from stvsr_jax.evaluation import protocols
from stvsr_jax.evaluation.baselines import BASELINES, WINDOW_SIZE, Baseline
from stvsr_jax.inference import predictor
from stvsr_jax.weights import shipped, sources
from stvsr_jax.weights.digest import params_digest


class Renderer(Protocol):
    """Anything that renders instants of a window; see `predictor.Predictor`."""

    tile: int | None

    def predict(
        self, frames: np.ndarray, times: Sequence[float], *, space: float, rounded: bool = True
    ) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Method:
    """A network with its weights, or a baseline.

    Attributes:
      name: for tables: the baseline, or the network.
      facts: what identifies it in a record, JSON types.
      window_size: how many given frames it takes at most.
      steps: it renders multiples of 1/steps of the time between two given frames; None: any instant.
      make: builds the renderer on the default device.
    """

    name: str
    facts: dict[str, Any]
    window_size: int
    steps: int | None
    make: Callable[[], Renderer]

    def check(self, protocol: protocols.Protocol) -> None:
        """Raises ValueError unless the method can do what the protocol asks for."""
        if self.name in models.MODELS:
            predictor.check_request(self.name, space=protocol.space, time=1)
        times = [time for window in protocol.plan(protocol.shortest) for time in window.times]
        if self.steps and any(time * self.steps != int(time * self.steps) for time in times):
            raise ValueError(
                f"protocol {protocol.name} scores instants at {times[1]} between two given frames; "
                f"{self.name} renders multiples of 1/{self.steps} only"
            )


def open_method(model: str, *, weights: str = "ema", dtype: str = "float32", tile: int = 0) -> Method:
    """Returns a baseline by name, or the network of trained weights.

    Args:
      model: a key of `BASELINES`, or weights by name, path or address; see `weights.sources`.
      weights: of a run, 'ema' (where it has an average) or 'raw'.
      dtype: number format of a network, a key of `models.DTYPES`.
      tile: of a network, see `predictor.Predictor`; 0 renders frames whole.

    Raises:
      ValueError: it is neither, or the weights cannot be read.
    """
    if model in BASELINES:
        return Method(model, {"name": model}, WINDOW_SIZE, None, lambda: Baseline(model))
    try:
        sources.check_exists(model)
    except ValueError as error:
        raise ValueError(
            f"model {model!r} is neither one of {', '.join(BASELINES)}, nor weights: {error}"
        ) from error
    loaded = sources.load(model, weights=weights)
    network = models.build(loaded.model_name, **{**loaded.model_kwargs, "dtype": models.DTYPES[dtype]})
    contract = models.contract_of(loaded.model_name)
    params = jax.device_get(loaded.params)  # each device gets a copy of its own
    facts = {
        "name": loaded.model_name,
        "fields": {key: list(v) if isinstance(v, tuple) else v for key, v in loaded.model_kwargs.items()},
        "step": loaded.step,
        "weights": weights,
        "digest": params_digest(params),
        "dtype": dtype,
        "tile": tile,
        **({"set": model} if model in shipped.list_names() else {}),
    }
    return Method(
        loaded.model_name,
        facts,
        contract.window_size,
        contract.steps,
        lambda: predictor.Predictor(loaded.model_name, network, params, tile=tile),
    )
