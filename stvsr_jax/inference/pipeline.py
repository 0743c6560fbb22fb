"""Frames in, enlarged and interpolated frames out: windows, network, times."""

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np

from stvsr_jax.inference import moments, scenes, streaming
from stvsr_jax.inference.video_reader import TimedFrame

# predict(frames [N, H, W, 3], times, device number) -> [T, H', W', 3] of the same type
Predict = Callable[[np.ndarray, tuple[Fraction, ...], int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Output:
    """An output frame.

    Attributes:
      frame: the picture with its time.
      offset: how far it lies between the input frame and the next, in [0, 1), 0 also where a frame is held.
      source: that input frame.
    """

    frame: TimedFrame
    offset: Fraction
    source: TimedFrame


def plan(
    frames: Iterable[TimedFrame],
    *,
    window_size: int,
    time: int = 1,
    fps: Fraction | None = None,
    keep_earlier: bool = True,
    scene_threshold: float = 0.0,
) -> Iterator[streaming.Window]:
    """Streams the windows to run.

    Args:
      frames: the input.
      window_size: frames of a window.
      time: outputs per input frame; they divide its duration equally.
      fps: outputs per second, instead of `time`.
      keep_earlier: see `streaming.plan_windows`.
      scene_threshold: see `scenes.mark_scene_ends`.
    """
    marked = scenes.mark_scene_ends(frames, threshold=scene_threshold)
    timed = moments.plan_moments(marked, time=time, fps=fps)
    return streaming.plan_windows(timed, size=window_size, keep_earlier=keep_earlier)


def skip_outputs(windows: Iterable[streaming.Window], count: int) -> Iterator[streaming.Window]:
    """Leaves out the first windows, which hold `count` outputs.

    Raises:
      ValueError: no window ends after `count` outputs.
    """
    windows = iter(windows)
    while count > 0:
        window = next(windows, None)
        count -= len(window.outputs) if window else count + 1
    if count:
        raise ValueError("the input is not the one of which a part is done")
    return windows


def render(
    windows: Iterable[streaming.Window], predict: Predict, *, devices: int = 1
) -> Iterator[list[Output]]:
    """Runs windows, as many at a time as there are devices, and yields the outputs of each in order.

    While the caller handles the outputs of one window the next are computed already.
    """
    numbers = itertools.count()
    with concurrent.futures.ThreadPoolExecutor(devices) as pool:
        waiting = collections.deque()
        try:
            for window in windows:
                images = np.stack([frame.image for frame in window.frames])
                task = pool.submit(predict, images, window.times, next(numbers) % devices)
                waiting.append((window, task))
                if len(waiting) > devices:
                    yield _outputs(*waiting.popleft())
            while waiting:
                yield _outputs(*waiting.popleft())
        finally:
            for _, task in waiting:
                task.cancel()


def _outputs(window: streaming.Window, task: concurrent.futures.Future) -> list[Output]:
    images = dict(zip(window.times, task.result(), strict=True))
    return [
        Output(
            TimedFrame(images[instant], moment.time, moment.duration),
            instant - int(instant),
            window.frames[int(instant)],
        )
        for instant, moment in window.outputs
    ]
