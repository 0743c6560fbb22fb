"""The rate of a network that is given the same windows again and again, with nothing else to do."""

import collections
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from stvsr_jax.inference.predictor import Predictor


def calls_per_second(
    network: Predictor,
    frames: np.ndarray,
    times: Sequence[Sequence[float]],
    *,
    seconds: float,
    calls: int,
    **settings: Any,
) -> float:
    """Returns how many calls all devices of the network finish in a second; the results stay there.

    Args:
      network: whose programs are there already, or else compile before the clock starts.
      frames: see `Predictor.start_windows`.
      times: see `Predictor.start_windows`.
      seconds: after which it ends.
      calls: of each device, at least 4, after which it ends.
      **settings: of `Predictor.start_windows`.
    """
    devices = len(network.devices)
    started = collections.deque()
    finished, began = 0, None
    for number in range(calls * devices):
        started.append(network.start_windows(frames, times, device=number % devices, **settings))
        if len(started) <= 2 * devices:
            continue
        jax.block_until_ready(started.popleft())
        finished += 1
        if finished == devices:  # all have compiled
            began = time.perf_counter()
        elif finished > devices and time.perf_counter() - began > seconds:
            break
    jax.block_until_ready(list(started))
    return (finished + len(started) - devices) / (time.perf_counter() - began)
