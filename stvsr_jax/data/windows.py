"""Which frames make a sample: window descriptions, the published recipes, and the windows that clips offer.

A window is `window` frames of one scene, `time_stride` apart. Some of them, reduced, are the input; some are
the target, at times 0 (first) to 1 (last). Space comes in two kinds, as published:

* fixed `scale`: the full frame is reduced by `hr_reduce` for the target and by `hr_reduce * scale` for the
  input, then both are cropped;
* a range of scales: one scale d is drawn per batch, a crop of floor(hr_reduce * lr_crop * d) pixels is taken
  from the full frame, then reduced by `hr_reduce` for the target and to `lr_crop` pixels for the input.
"""

import bisect
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from stvsr_jax.data.clip import Clip
from stvsr_jax.data.degradations import Degradation

# Stages of training: from which batch on, which windows. The first one starts at batch 0.
Recipe = tuple[tuple[int, "WindowSpec"], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How a sample is cut from a clip.

    Attributes:
      window: frames in a window.
      inputs: which of them, counted from 0, are the input.
      num_times: how many of them, drawn at random, are the target; None for all.
      scale: target pixels per input pixel, a whole number, or the (low, high) range to draw it from.
      num_scales: draw from this many evenly spaced scales, which bounds the number of different array shapes
        (and so of compilations); None draws any, as published. Only for a range.
      lr_crop: input height and width in pixels, a multiple of 4.
      hr_reduce: how much the full frame is reduced for the target.
      time_stride: frames of the clip per frame of the window; of a tuple, one is drawn for each sample, among those
        with which the window still lies in its scene.
      augment: mirror and transpose at random.
      reverse_time: also play backwards at random.
      augment_per_batch: draw all of that once per batch instead of per sample.
      quantize: round reduced frames to 8 bits.
      degradation: what befalls the input beyond its reduction; None for nothing.
    """

    window: int
    inputs: tuple[int, ...]
    num_times: int | None
    scale: int | tuple[float, float]
    num_scales: int | None = None
    lr_crop: int = 32
    hr_reduce: int = 1
    time_stride: int | tuple[int, ...] = 1
    augment: bool = True
    reverse_time: bool = False
    augment_per_batch: bool = False
    quantize: bool = True
    degradation: Degradation | None = None

    def __post_init__(self):
        if len(self.inputs) < 2 or sorted(set(self.inputs)) != list(self.inputs):
            raise ValueError(f"inputs={self.inputs} must be at least two ascending frames")
        if self.inputs[0] != 0 or self.inputs[-1] != self.window - 1:
            raise ValueError(
                f"inputs={self.inputs} must begin at 0 and end at window - 1 = {self.window - 1}"
            )
        if self.num_times is not None and not 1 <= self.num_times <= self.window:
            raise ValueError(
                f"num_times={self.num_times} must be from 1 to window = {self.window}, or None for all"
            )
        if self.hr_reduce != int(self.hr_reduce) or self.hr_reduce < 1:
            raise ValueError(f"hr_reduce={self.hr_reduce} must be a whole number from 1")
        if not self.strides or any(stride != int(stride) or stride < 1 for stride in self.strides):
            raise ValueError(f"time_stride={self.time_stride} must be a whole number from 1, or several")
        if self.lr_crop < 4 or self.lr_crop % 4:
            raise ValueError(f"lr_crop={self.lr_crop} must be a positive multiple of 4, as the encoder needs")
        if isinstance(self.scale, tuple):
            if len(self.scale) != 2 or not 1 <= self.scale[0] <= self.scale[1]:
                raise ValueError(f"scale={self.scale} must be a (low, high) range with 1 <= low <= high")
        elif self.scale != int(self.scale) or self.scale < 1:
            raise ValueError(
                f"scale={self.scale} must be a whole number from 1; give a (low, high) range for others"
            )
        if self.num_scales is not None and (self.num_scales < 1 or not isinstance(self.scale, tuple)):
            raise ValueError(
                f"num_scales={self.num_scales} must be at least 1, and scale={self.scale} a range"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """The time strides that samples may have, ascending."""
        return tuple(sorted(self.time_stride)) if isinstance(self.time_stride, tuple) else (self.time_stride,)

    @property
    def span(self) -> int:
        """Frames of the clip from the first to the last frame of a window, at the smallest stride."""
        return (self.window - 1) * self.strides[0] + 1

    @property
    def alike(self) -> tuple:
        """What the specs of samples in one batch must share: all that decides shapes, or is drawn per batch."""
        times = self.num_times or self.window
        return len(self.inputs), times, self.scale, self.num_scales, self.lr_crop, self.augment_per_batch

    @property
    def min_size(self) -> int:
        """Pixels of height and width that a clip must have."""
        largest = self.scale[1] if isinstance(self.scale, tuple) else self.scale
        return math.floor(self.hr_reduce * self.lr_crop * largest)


def zooming_slowmo(
    *,
    window: int = 7,
    scale: int = 4,
    lr_crop: int = 32,
    hr_reduce: int = 1,
    time_stride: int | tuple[int, ...] = 1,
) -> Recipe:
    """Every second frame of `window` in, all of them out, as published in arXiv 2002.11616.

    Raises:
      ValueError: `window` is even or below 3.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window={window} must be odd and at least 3: every second frame is an input")
    spec = WindowSpec(
        window=window,
        inputs=tuple(range(0, window, 2)),
        num_times=None,
        scale=scale,
        lr_crop=lr_crop,
        hr_reduce=hr_reduce,
        time_stride=time_stride,
        reverse_time=True,
    )
    return ((0, spec),)


def videoinr(
    *,
    window: int = 9,
    scale: int = 4,
    lr_crop: int = 32,
    hr_reduce: int = 1,
    time_stride: int | tuple[int, ...] = 1,
    num_times: int = 1,
    stage2_step: int | None = 450_000,
    stage2_scale: tuple[float, float] = (2.0, 4.0),
    stage2_num_times: int = 3,
    stage2_augment_per_batch: bool = True,
    num_scales: int = 8,
    reverse_time: bool = False,
    quantize: bool = True,
) -> Recipe:
    """First and last frame of `window` in, random ones out; from `stage2_step` on also at random scales.

    As published (arXiv 2206.04647) but for `num_scales`: scales were drawn continuously (0 here), and for `quantize`:
    reduced frames stayed float (False here). `stage2_step=None` stays in the first stage.
    """
    shared = {
        "window": window,
        "inputs": (0, window - 1),
        "lr_crop": lr_crop,
        "hr_reduce": hr_reduce,
        "time_stride": time_stride,
        "reverse_time": reverse_time,
        "quantize": quantize,
    }
    recipe = ((0, WindowSpec(num_times=num_times, scale=scale, **shared)),)
    if stage2_step is None:
        return recipe
    second = WindowSpec(
        num_times=stage2_num_times,
        scale=tuple(stage2_scale),
        num_scales=num_scales or None,
        augment_per_batch=stage2_augment_per_batch,
        **shared,
    )
    # From batch 0 on, the second stage replaces the first.
    return ((0, second),) if stage2_step == 0 else (*recipe, (stage2_step, second))


RECIPES: dict[str, Callable[..., Recipe]] = {"zooming_slowmo": zooming_slowmo, "videoinr": videoinr}


def make_recipe(name: str, **options) -> Recipe:
    """Returns the recipe called `name` in RECIPES; `options` are arguments of its function.

    Raises:
      ValueError: there is none of that name, or an option is out of range.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r} is not known; choose one of {sorted(RECIPES)}")
    return RECIPES[name](**options)


def stage_at(recipe: Recipe, batch: int) -> WindowSpec:
    """Returns the windows that batch number `batch` is made of."""
    return recipe[bisect.bisect_right([first for first, _ in recipe], batch) - 1][1]


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError unless stages begin at batch 0, ascend, and span the same number of frames."""
    starts = [first for first, _ in recipe]
    if not starts or starts[0] != 0 or any(b <= a for a, b in zip(starts[:-1], starts[1:], strict=True)):
        raise ValueError(f"stages begin at batches {starts}; they must begin at 0 and ascend")
    if len({spec.span for _, spec in recipe}) > 1:
        raise ValueError(f"stages span {[spec.span for _, spec in recipe]} frames; all must span the same")


def check_alike(recipes: Sequence[Recipe]) -> None:
    """Raises ValueError unless samples of all recipes fit into one batch at any time."""
    first, *others = [[(start, spec.alike) for start, spec in recipe] for recipe in recipes]
    for other in others:
        if other != first:
            raise ValueError(
                "the sources of data.path must have stages that begin at the same steps, with the same number of "
                f"inputs and targets, scale and lr_crop; these differ: {first} and {other}"
            )


class Windows:
    """The windows of some clips, counted through: entry i is (clip number, first frame)."""

    def __init__(self, clips: Sequence[Clip], span: int):
        self._span = span
        runs = [
            (number, start, end - start - span + 1)
            for number, clip in enumerate(clips)
            for start, end in clip.scenes
            if end - start >= span
        ]
        self._clips = np.array([run[0] for run in runs], np.int64)
        self._starts = np.array([run[1] for run in runs], np.int64)
        # Windows before each run and in all; [runs + 1].
        self._before = np.concatenate([[0], np.cumsum([run[2] for run in runs], dtype=np.int64)]).astype(
            np.int64
        )

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        run = int(np.searchsorted(self._before, index, side="right")) - 1
        return int(self._clips[run]), int(self._starts[run] + index - self._before[run])

    def __repr__(self) -> str:
        return f"Windows({len(self)} of {self._span} frames)"


def sort_out(clips: Sequence[Clip], recipe: Recipe) -> tuple[list[Clip], list[str]]:
    """Divides clips into those that offer windows to `recipe`, and a sentence about each of the others."""
    check_recipe(recipe)
    span, needed = recipe[0][1].span, _min_size(recipe)
    usable, faults = [], []
    for clip in clips:
        longest = max((end - start for start, end in clip.scenes), default=0)
        if min(clip.height, clip.width) < needed:
            faults.append(_describe_small(clip, needed))
        elif longest < span:
            faults.append(f"{clip.name} has {longest} frames without a cut; windows need {span} frames")
        else:
            usable.append(clip)
    return usable, faults


def list_windows(clips: Sequence[Clip], recipe: Recipe) -> Windows:
    """Returns every window that `clips` offer to `recipe`, at every first frame; short clips offer none.

    Raises:
      ValueError: no clips, none long enough, or one that is smaller than the crops.
    """
    check_recipe(recipe)
    if not clips:
        raise ValueError("no clips given; at least one is needed")
    span, needed = recipe[0][1].span, _min_size(recipe)
    for clip in clips:
        if min(clip.height, clip.width) < needed:
            raise ValueError(_describe_small(clip, needed))
    windows = Windows(clips, span)
    if not len(windows):
        raise ValueError(f"none of {len(clips)} clips has the {span} frames without a cut that windows need")
    return windows


def _min_size(recipe: Recipe) -> int:
    return max(spec.min_size for _, spec in recipe)


def _describe_small(clip: Clip, needed: int) -> str:
    return (
        f"{clip.name} is {clip.width}x{clip.height} pixels; crops of lr_crop * scale * hr_reduce need at least "
        f"{needed}x{needed}"
    )
