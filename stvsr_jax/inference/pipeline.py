"""Frames in, enlarged and interpolated frames out: windows, network, times."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np

from stvsr_jax.inference import scenes, streaming
from stvsr_jax.inference.video_reader import TimedFrame

# predict(frames uint8 [N, H, W, 3], times) -> uint8 [T, H', W', 3]
Predict = Callable[[np.ndarray, tuple[Fraction, ...]], np.ndarray]


def upscale(
    frames: Iterable[TimedFrame],
    predict: Predict,
    *,
    window_size: int,
    time: int,
    keep_earlier: bool = True,
    scene_threshold: float = 0.0,
) -> Iterator[tuple[TimedFrame, Fraction, TimedFrame]]:
    """Streams the output video.

    Args:
      frames: the input.
      predict: the network.
      window_size: frames that `predict` takes.
      time: outputs per input frame; they divide its duration equally.
      keep_earlier: see `streaming.plan_windows`.
      scene_threshold: see `scenes.mark_scene_ends`.

    Yields:
      (output, offset, input): the output frame with its time; how far it lies between the input frame and the
      next, in [0, 1), 0 also where a frame is held; that input frame. `time` outputs for every input frame.
    """
    marked = scenes.mark_scene_ends(frames, threshold=scene_threshold)
    windows = streaming.plan_windows(marked, size=window_size, time=time, keep_earlier=keep_earlier)
    for window in windows:
        images = predict(np.stack([frame.image for frame in window.frames]), window.times)
        for image, instant in zip(images, window.times, strict=True):
            source = window.frames[int(instant)]
            offset = instant - int(instant)
            yield _output(image, source, offset, time), offset, source
        for held in range(1, window.hold + 1):
            yield _output(image, source, Fraction(held, time), time), Fraction(0), source


def _output(image: np.ndarray, source: TimedFrame, offset: Fraction, time: int) -> TimedFrame:
    return TimedFrame(image, source.time + offset * source.duration, source.duration / time)
