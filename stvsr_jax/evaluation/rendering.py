"""Renders and scores the windows of clips on one or many devices.

Windows are spread over the devices, one renderer on each; reading is ahead of them by a few windows, and nothing
else is held, however long the clips are. Results come in order and do not depend on the number of devices.
"""

import dataclasses
import queue
import threading
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from stvsr_jax import metrics, stages
from stvsr_jax.evaluation.datasets import EvaluationClip
from stvsr_jax.evaluation.methods import Method
from stvsr_jax.evaluation.protocols import Protocol, Window, split_window

# Frames scored at once: SSIM needs some twenty images of work space for each.
_BATCH = 4
_READERS = 2


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A window's frames and their scores.

    Attributes:
      window: which frames.
      prediction: uint8 or float32 [T, H', W', 3].
      target: uint8 [T, H', W', 3].
      scores: {metric: [T]}.
      seconds: that the renderer took.
    """

    window: Window
    prediction: np.ndarray
    target: np.ndarray
    scores: dict[str, np.ndarray]
    seconds: float


def render_windows(
    method: Method, protocol: Protocol, clips: Sequence[EvaluationClip], devices: Sequence[jax.Device]
) -> Iterator[Rendered]:
    """Yields all windows of all clips, in order, each rendered and scored on one of the devices.

    Raises:
      ValueError: a frame cannot be read, or the device has too little memory for the method's tile.
    """
    pieces = (
        (clip, piece)
        for clip in clips
        for window in protocol.plan(clip.num_frames)
        for piece in split_window(window, method.window_size)
    )
    workers = _Workers(method, protocol, devices)
    loaded = stages.map_ahead(
        lambda item: (item[1], *item[0].read(item[1])),
        pieces,
        workers=_READERS,
        ahead=_READERS + len(devices),
    )
    yield from stages.map_ahead(
        lambda item: workers.run(*item),
        loaded,
        workers=len(devices),
        ahead=2 * len(devices),
        initializer=workers.start,
    )


class _Workers:
    """Threads that each own one device and a renderer on it."""

    def __init__(self, method: Method, protocol: Protocol, devices: Sequence[jax.Device]):
        self._protocol = protocol
        self._renderers = queue.SimpleQueue()
        for device in devices:
            with jax.default_device(device):
                self._renderers.put((device, method.make()))
        self._own = threading.local()

    def start(self) -> None:
        """Takes a device for the calling thread."""
        self._own.device, self._own.renderer = self._renderers.get_nowait()

    def run(self, window: Window, frames: np.ndarray, target: np.ndarray) -> Rendered:
        """Renders and scores one window on the thread's device."""
        protocol, tile = self._protocol, self._own.renderer.tile
        with jax.default_device(self._own.device):
            began = time.perf_counter()
            prediction = self._own.renderer.predict(
                frames, window.times, space=protocol.space, rounded=protocol.rounded
            )
            seconds = time.perf_counter() - began
            if self._own.renderer.tile != tile:  # tiles change the numbers, so they are never chosen silently
                raise ValueError(
                    f"the device has too little memory for tile={tile} (0: whole frames); evaluate with --tile "
                    f"{self._own.renderer.tile} in another folder"
                )
            started = [
                metrics.score_frames(prediction[i : i + _BATCH], target[i : i + _BATCH])
                for i in range(0, len(target), _BATCH)
            ]
            batches = jax.device_get(started)  # the device need not wait for each
        scores = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        return Rendered(window, prediction, target, scores, seconds)
