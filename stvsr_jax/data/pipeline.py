"""From clips to batches, with grain.

A batch is a dict of float32 arrays: `frames` [B, N, h, w, 3], `target` [B, T, H, W, 3], `times` [B, T]; see
`samples`. Samples are numbered through all processes and all of training: batch b of P processes with B
samples each holds samples b*B*P .. (b+1)*B*P - 1, and process p those that are p modulo P. Everything random
about a sample is a function of the seed and its number. The position in the data is therefore the number of
batches taken, and training goes on from it bit for bit with any number of threads, workers and processes.
"""

import dataclasses
import signal
from collections.abc import Iterator, Sequence

import grain
import numpy as np
import threadpoolctl
from absl import flags, logging

from stvsr_jax.data import samples
from stvsr_jax.data.clip import Clip
from stvsr_jax.data.windows import Recipe, Windows, WindowSpec, check_alike, list_windows, stage_at
from stvsr_jax.data.workers import end_with_parent
from stvsr_jax.stages import count_cores

# Keep the streams of random numbers apart.
_PER_SAMPLE, _PER_BATCH, _PER_WINDOW = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Part:
    """Clips that share a recipe.

    Attributes:
      clips: what to cut windows from.
      recipe: how, by batch number; see `windows.make_recipe`.
      share: of the samples that are from here, relative to the other parts'.
    """

    clips: Sequence[Clip]
    recipe: Recipe
    share: float = 1.0


def make_train_dataset(
    parts: Sequence[Part],
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    num_workers: int = 0,
    num_threads: int | None = None,
    buffer_size: int | None = None,
) -> "TrainBatches":
    """Returns endless shuffled batches; all windows of a part are equally likely.

    Args:
      parts: what to cut windows from, how, and how often. Their recipes must make arrays of the same shapes.
      batch_size: samples per batch in this process.
      seed: from 0; decides the order and all random choices.
      process_index: which share of the samples this process makes, from 0.
      process_count: of how many shares.
      num_workers: processes that make batches; 0 makes them in threads of this one.
      num_threads: threads in this process, or in each worker; by default one per core, at most 8.
      buffer_size: batches made ahead, in this process or in each worker; by default `num_threads`.

    Raises:
      ValueError: a number out of range, clips that do not fit (see `windows.list_windows`), or parts whose samples
        do not fit into one batch.
    """
    _check_shares(batch_size, process_index, process_count)
    check_alike([part.recipe for part in parts])
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")
    if num_workers < 0:
        raise ValueError(f"num_workers={num_workers} must be at least 0")
    numbered = [
        _number_windows(number, part, seed=seed + number, batch_size=process_count * batch_size)
        for number, part in enumerate(parts)
    ]
    dataset = numbered[0]
    if len(parts) > 1:
        dataset = grain.MapDataset.mix(numbered, weights=[part.share for part in parts])
    dataset = dataset.map_with_index(_TrainSample(tuple(parts), seed, process_count * batch_size))
    # Whole batches are the unit that threads and workers share out, so their content depends on neither.
    batches = dataset[process_index::process_count].batch(batch_size)
    return TrainBatches(batches, _read_options(num_threads, buffer_size), num_workers)


def _number_windows(number: int, part: Part, *, seed: int, batch_size: int) -> grain.MapDataset:
    """Returns the shuffled windows of a part, as (part number, clip number, first frame), endlessly."""
    windows = list_windows(part.clips, part.recipe)
    if len(windows) < batch_size:
        logging.warning(
            "only %d windows for batches of %d: they repeat within a batch", len(windows), batch_size
        )
    # As good as endless; grain's own endless length overflows for batches of one sample.
    epochs = 2**60 // len(windows)
    return grain.MapDataset.source(windows).shuffle(seed=seed % 2**32).repeat(epochs).map(_AddNumber(number))


@dataclasses.dataclass(frozen=True)
class _AddNumber:
    number: int

    def __call__(self, window: tuple[int, int]) -> tuple[int, int, int]:
        return self.number, *window


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Endless batches that can be entered anywhere.

    Attributes:
      batches: all of them, by number.
      read_options: threads and buffer, of this process or of each worker.
      num_workers: processes that make batches.
    """

    batches: grain.MapDataset
    read_options: grain.ReadOptions
    num_workers: int

    def start_at(self, number: int) -> grain.DatasetIterator:
        """Returns the batches from `number` on, made ahead; `close` it to end its threads and workers."""
        _make_products_in_one_thread()
        dataset = self.batches[number:].to_iter_dataset(self.read_options)
        if self.num_workers:
            if not flags.FLAGS.is_parsed():
                # grain reads its flags in workers; a program that is not an absl app has none to parse.
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self.num_workers)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
        return iter(dataset)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self.start_at(0)


def make_eval_dataset(
    clips: Sequence[Clip],
    spec: WindowSpec,
    *,
    batch_size: int,
    num_windows: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
) -> grain.IterDataset:
    """Returns a few fixed batches for validation during training, the same each time.

    Windows are shared out evenly among clips and evenly within each; crops are `spec.lr_crop` pixels from the
    centre, and all frames of a window are targets. Degradations, too, are the same each time.

    Args:
      clips: what to cut windows from, none of it trained on; see `split`.
      spec: how; the crop may be larger than the one trained with. A range of scales gives its largest.
      batch_size: samples per batch in this process.
      num_windows: samples over all processes, a multiple of batch_size * process_count. Clips with fewer
        windows than their share repeat some.
      process_index: as for `make_train_dataset`.
      process_count: as for `make_train_dataset`.
      num_threads: as for `make_train_dataset`.

    Raises:
      ValueError: a number out of range, or a clip that is too small.
    """
    _check_shares(batch_size, process_index, process_count)
    if num_windows < 1 or num_windows % (batch_size * process_count):
        raise ValueError(
            f"num_windows={num_windows} must be a positive multiple of batch_size * process_count = "
            f"{batch_size} * {process_count}"
        )
    for clip in clips:
        if min(clip.height, clip.width) < spec.min_size:
            raise ValueError(
                f"{clip.name} is {clip.width}x{clip.height} pixels; validation_crop={spec.lr_crop} needs at "
                f"least {spec.min_size}x{spec.min_size}"
            )
    list_windows(clips, ((0, spec),))
    chosen = choose_windows(clips, spec.span, num_windows)
    dataset = grain.MapDataset.source(chosen).map_with_index(_EvalSample(tuple(clips), spec))
    dataset = dataset[process_index::process_count].batch(batch_size)
    _make_products_in_one_thread()
    return dataset.to_iter_dataset(_read_options(num_threads, None))


def choose_windows(clips: Sequence[Clip], span: int, count: int) -> list[tuple[int, int]]:
    """Returns `count` windows, (clip number, first frame), evenly spaced over the clips and within each."""
    offers = [(number, windows) for number, clip in enumerate(clips) if len(windows := Windows([clip], span))]
    chosen = []
    for share, which in zip(
        *np.unique(np.arange(count) * len(offers) // count, return_counts=True), strict=True
    ):
        number, windows = offers[share]
        chosen += [(number, windows[int((i + 0.5) * len(windows) / which)][1]) for i in range(which)]
    return chosen


@dataclasses.dataclass(frozen=True)
class _TrainSample:
    """Makes sample number `index` from a window."""

    parts: tuple[Part, ...]
    seed: int
    global_batch: int

    def __call__(self, index: int, window: tuple[int, int, int]) -> dict[str, np.ndarray]:
        number, clip, start = window
        part = self.parts[number]
        batch = index // self.global_batch
        return samples.draw_sample(
            part.clips[clip],
            start,
            stage_at(part.recipe, batch),
            rng=np.random.default_rng((self.seed, _PER_SAMPLE, index)),
            batch_rng=np.random.default_rng((self.seed, _PER_BATCH, batch)),
        )


@dataclasses.dataclass(frozen=True)
class _EvalSample:
    """Makes the validation sample of window number `index`."""

    clips: tuple[Clip, ...]
    spec: WindowSpec

    def __call__(self, index: int, window: tuple[int, int]) -> dict[str, np.ndarray]:
        clip, start = window
        rng = np.random.default_rng((_PER_WINDOW, index))
        return samples.centre_sample(self.clips[clip], start, self.spec, rng=rng)


def _start_worker(index: int, count: int) -> None:
    # A signal to the whole process group would take the batches from a run that wants to end in good order.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    _make_products_in_one_thread()


def _make_products_in_one_thread() -> None:
    """Samples are made by many threads at once; those that BLAS adds for each product spin and take their cores."""
    threadpoolctl.threadpool_limits(1, user_api="blas")


def _check_shares(batch_size: int, process_index: int, process_count: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index={process_index} must be from 0 to process_count - 1 = {process_count - 1}"
        )


def _read_options(num_threads: int | None, buffer_size: int | None) -> grain.ReadOptions:
    num_threads = num_threads or min(8, count_cores())
    return grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffer_size or num_threads)
