"""Frames in, enlarged and interpolated frames out: windows, network, times."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from stvsr_jax import stages
from stvsr_jax.inference import moments, scenes, streaming
from stvsr_jax.video.sequential_reader import TimedFrame

# predict(frames [B, N, H, W, 3], T times of each window, device number) -> [B, T, H', W', 3] of the same type
Predict = Callable[[np.ndarray, Sequence[Sequence[Fraction]], int], np.ndarray]


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


@dataclasses.dataclass(frozen=True)
class Group:
    """Windows that go to a device together.

    Attributes:
      windows: at most as many as go together.
      skipped: so many of the first are done already; they are computed again and left out.
    """

    windows: tuple[streaming.Window, ...]
    skipped: int = 0


def group(windows: Iterable[streaming.Window], *, size: int = 1, skip: int = 0) -> Iterator[Group]:
    """Puts windows together, always the same ones wherever a job goes on: what a device computes may depend on it.

    Args:
      windows: of the whole input.
      size: windows of a group; the last may have fewer.
      skip: outputs that are done already; groups of which all are done are left out.

    Raises:
      ValueError: no window ends after `skip` outputs.
    """
    windows = iter(windows)
    while together := tuple(itertools.islice(windows, size)):
        skipped = 0
        while skip > 0 and skipped < len(together):
            skip -= len(together[skipped].outputs)
            skipped += 1
        if skip < 0:
            break
        if skipped < len(together):
            yield Group(together, skipped)
    if skip:
        raise ValueError("the input is not the one of which a part is done")


def render(
    groups: Iterable[Group],
    predict: Predict,
    *,
    size: int = 1,
    devices: int = 1,
    calls: int = 1,
    timer: stages.Timer | None = None,
) -> Iterator[list[Output]]:
    """Runs groups on all devices and yields the outputs of each window in order.

    Args:
      groups: from `group`.
      predict: the network.
      size: windows of a group; a smaller one is filled up, so that there is one program.
      devices: groups are spread over so many.
      calls: how many are under way on each device: while the results of one are fetched it runs the next.
      timer: of the calls.
    """

    def run(numbered):
        number, one = numbered
        windows = one.windows + one.windows[-1:] * (size - len(one.windows))
        frames = np.stack([np.stack([frame.image for frame in window.frames]) for window in windows])
        most = max(len(window.times) for window in windows)
        times = [window.times + window.times[-1:] * (most - len(window.times)) for window in windows]
        count = sum(len(window.outputs) for window in one.windows[one.skipped :])
        with timer.busy(count):
            rendered = predict(frames, times, number % devices)
        kept = list(zip(one.windows, rendered, strict=False))[one.skipped :]
        return [_outputs(window, images) for window, images in kept]

    timer = timer or stages.Timer("network", devices)
    workers = devices * calls
    rendered = stages.map_ahead(run, enumerate(groups), workers=workers, ahead=workers)
    with contextlib.closing(rendered):  # not by the garbage collector, which hides interruptions
        for outputs in rendered:
            yield from outputs


def _outputs(window: streaming.Window, images: np.ndarray) -> list[Output]:
    """Returns the outputs of a window from its different instants, [T, H', W', 3], perhaps filled up."""
    found = dict(zip(window.times, images, strict=False))
    return [
        Output(
            TimedFrame(found[instant], moment.time, moment.duration),
            instant - int(instant),
            window.frames[int(instant)],
        )
        for instant, moment in window.outputs
    ]
