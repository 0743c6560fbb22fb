"""Cuts one sample out of a clip, as a window description says.

A sample is a dict of float32 arrays: `frames` [N, h, w, 3], the input, and `target` [T, H, W, 3], both RGB in
[0, 1], and `times` [T], the instants of the targets in [0, 1] from the first input frame to the last.
"""

import math

import numpy as np

from stvsr_jax import bicubic
from stvsr_jax.data import degradations, reduction, transforms
from stvsr_jax.data.clip import Clip
from stvsr_jax.data.windows import WindowSpec


def draw_sample(
    clip: Clip, start: int, spec: WindowSpec, *, rng: np.random.Generator, batch_rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Makes a training sample.

    Args:
      clip: where from.
      start: first frame of the window.
      spec: how.
      rng: makes the sample's own choices: times, position, augmentation.
      batch_rng: makes the choices that all samples of a batch share; must be in the same state for each of
        them.

    Returns:
      frames: float32 [N, H, W, 3] RGB in [0, 1], low resolution.
      target: float32 [T, H', W', 3] RGB in [0, 1].
      times: float32 [T] in [0, 1], from the first to the last frame of the window.
    """
    if isinstance(spec.scale, tuple):
        scale = draw_scale(batch_rng, spec)
        full = math.floor(spec.hr_reduce * spec.lr_crop * scale)
        corner = transforms.draw_corner(rng, (clip.height, clip.width), (full, full))
    else:
        scale = spec.scale
        corner = transforms.draw_corner(rng, lr_size(clip, spec), (spec.lr_crop, spec.lr_crop))
    times = np.arange(spec.window)
    if spec.num_times is not None:
        times = transforms.draw_times(rng, spec.window, spec.num_times)
    stride = draw_stride(rng, clip, start, spec)
    sample = cut_sample(clip, start, spec, scale=scale, corner=corner, times=times, stride=stride)
    if spec.augment:
        augmentation_rng = batch_rng if spec.augment_per_batch else rng
        sample = transforms.augment(
            sample, transforms.draw_augmentation(augmentation_rng, reverse_time=spec.reverse_time)
        )
    # With draws of their own, so that all else is as in a run without, and after the augmentation: files are not
    # played backwards.
    return _degrade(sample, spec, rng.spawn(1)[0])


def centre_sample(
    clip: Clip, start: int, spec: WindowSpec, *, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Makes a validation sample: centre crop, all frames as targets; of a range the largest scale.

    Args:
      clip: as for `draw_sample`.
      start: as for `draw_sample`.
      spec: as for `draw_sample`.
      rng: makes the choices of `spec.degradation`.
    """
    if isinstance(spec.scale, tuple):
        scale = spec.scale[1]
        full = math.floor(spec.hr_reduce * spec.lr_crop * scale)
        corner = transforms.centre_corner((clip.height, clip.width), (full, full))
    else:
        scale = spec.scale
        corner = transforms.centre_corner(lr_size(clip, spec), (spec.lr_crop, spec.lr_crop))
    times = np.arange(spec.window)
    sample = cut_sample(clip, start, spec, scale=scale, corner=corner, times=times, stride=spec.strides[0])
    return _degrade(sample, spec, rng)


def _degrade(sample, spec, rng):
    if spec.degradation is None:
        return sample
    frames = degradations.degrade(sample["frames"], spec.degradation, rng=rng, quantize=spec.quantize)
    return sample | {"frames": frames}


def draw_scale(rng: np.random.Generator, spec: WindowSpec) -> float:
    """Draws a scale from the range of `spec`."""
    low, high = spec.scale
    if spec.num_scales is None:
        return float(rng.uniform(low, high))
    return float(np.linspace(low, high, spec.num_scales)[rng.integers(spec.num_scales)])


def draw_stride(rng: np.random.Generator, clip: Clip, start: int, spec: WindowSpec) -> int:
    """Draws one of the strides of `spec` for which the window still lies in its scene."""
    if len(spec.strides) == 1:
        return spec.strides[0]
    end = next(end for first, end in clip.scenes if first <= start < end)
    fitting = [stride for stride in spec.strides if start + (spec.window - 1) * stride < end]
    return fitting[rng.integers(len(fitting))]


def lr_size(clip: Clip, spec: WindowSpec) -> tuple[int, int]:
    """Returns the (height, width) of a clip's reduced frame, counting pixels with a whole target only."""
    reduce = spec.hr_reduce * spec.scale
    return clip.height // reduce, clip.width // reduce


def cut_sample(
    clip: Clip,
    start: int,
    spec: WindowSpec,
    *,
    scale: float,
    corner: tuple[int, int],
    times: np.ndarray,
    stride: int,
) -> dict[str, np.ndarray]:
    """Reads a window and reduces it; see `draw_sample`.

    Args:
      clip: as for `draw_sample`.
      start: as for `draw_sample`.
      spec: as for `draw_sample`.
      scale: the scale to use, out of `spec.scale`.
      corner: (top, left) of the crop, in pixels of the input for a fixed scale, of the full frame for a
        range.
      times: int [T], which frames of the window are targets, ascending.
      stride: frames of the clip per frame of the window, one of `spec.strides`.
    """
    positions = sorted({*spec.inputs, *times.tolist()})
    numbers = [start + stride * p for p in positions]
    cut = _cut_free if isinstance(spec.scale, tuple) else _cut_aligned
    is_input, is_target = np.isin(positions, spec.inputs), np.isin(positions, times)
    frames, target = cut(clip, numbers, spec, scale, corner, is_input, is_target)
    return {"frames": frames, "target": target, "times": (times / (spec.window - 1)).astype(np.float32)}


def _cut_aligned(clip, numbers, spec, scale, corner, is_input, is_target):
    """Crops of the reduced frames."""
    crop, factor = spec.lr_crop, int(scale)
    rows, columns, hr_rows, hr_columns = (
        reduction.reduced_span(size, reduce, first * step, crop * step)
        for reduce, step in ((spec.hr_reduce * factor, 1), (spec.hr_reduce, factor))
        for size, first in ((clip.height, corner[0]), (clip.width, corner[1]))
    )
    top, bottom = reduction.enclosing(rows, hr_rows)
    left, right = reduction.enclosing(columns, hr_columns)
    full = clip.read(numbers, (top, left, bottom - top, right - left))
    shared = {"origin": (top, left), "quantize": spec.quantize}
    frames = reduction.reduce_crop(full[is_input], rows, columns, **shared)
    if spec.hr_reduce == 1:
        y, x = hr_rows.start - top, hr_columns.start - left
        target = full[is_target][:, y : y + crop * factor, x : x + crop * factor].astype(
            np.float32
        ) / np.float32(255)
    else:
        target = reduction.reduce_crop(full[is_target], hr_rows, hr_columns, **shared)
    return frames, target


def _cut_free(clip, numbers, spec, scale, corner, is_input, is_target):
    """Reductions of a crop."""
    size = math.floor(spec.hr_reduce * spec.lr_crop * scale)
    full = clip.read(numbers, (*corner, size, size))
    shared = {"origin": (0, 0), "quantize": spec.quantize}
    lr = reduction.whole_span(size, spec.hr_reduce * scale, spec.lr_crop)
    hr = reduction.whole_span(size, spec.hr_reduce, bicubic.output_size(size, 1.0 / spec.hr_reduce))
    frames = reduction.reduce_crop(full[is_input], lr, lr, **shared)
    return frames, reduction.reduce_crop(full[is_target], hr, hr, **shared)
