"""Batches are reproducible, resumable, shared out exactly once, and the same with any number of workers."""

import dataclasses

import numpy as np
import pytest
import threadpoolctl

from stvsr_jax.data.degradations import DEGRADATIONS
from stvsr_jax.data.pipeline import Part, choose_windows, make_eval_dataset, make_train_dataset
from stvsr_jax.data.video_file import open_video
from stvsr_jax.data.windows import videoinr, zooming_slowmo

_RECIPE = zooming_slowmo(lr_crop=4)
_DEGRADED = ((0, dataclasses.replace(_RECIPE[0][1], degradation=DEGRADATIONS["video"])),)


@pytest.fixture
def clips(array_clip):
    return [array_clip("a", 30, 40, 48, seed=1), array_clip("b", 17, 24, 32, seed=2)]


def _take(dataset, count):
    iterator = iter(dataset)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def _assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_batches_have_the_promised_arrays(clips):
    (batch,) = _take(make_train_dataset([Part(clips, _RECIPE)], batch_size=3, seed=0), 1)
    shapes = {key: value.shape for key, value in batch.items()}
    assert shapes == {"frames": (3, 4, 4, 4, 3), "target": (3, 7, 16, 16, 3), "times": (3, 7)}
    assert all(value.dtype == np.float32 for value in batch.values())
    assert 0 <= batch["frames"].min() and batch["target"].max() <= 1


def test_seed_decides(clips):
    first = _take(make_train_dataset([Part(clips, _RECIPE)], batch_size=3, seed=5), 4)
    _assert_same(
        first, _take(make_train_dataset([Part(clips, _RECIPE)], batch_size=3, seed=5, num_threads=1), 4)
    )
    other = _take(make_train_dataset([Part(clips, _RECIPE)], batch_size=3, seed=6), 1)
    assert not np.array_equal(first[0]["frames"], other[0]["frames"])
    assert not np.array_equal(first[0]["frames"], first[1]["frames"])


def _take_from(dataset, number, count):
    iterator = dataset.start_at(number)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def test_entering_anywhere_is_bit_exact(clips):
    dataset = make_train_dataset([Part(clips, _RECIPE)], batch_size=3, seed=0)
    expected = _take(dataset, 8)
    for number in (0, 1, 5):
        _assert_same(_take_from(dataset, number, 8 - number), expected[number:])


def test_entering_far_ahead_costs_no_reading_of_what_lies_before(clips):
    dataset = make_train_dataset([Part(clips, _RECIPE)], batch_size=3, seed=0)
    first, second = (_take_from(dataset, number, 2) for number in (599_998, 599_999))
    _assert_same(first[1:], second[:1])


def test_processes_together_make_the_samples_of_one(clips):
    whole = _take(make_train_dataset([Part(clips, _RECIPE)], batch_size=6, seed=0), 8)
    shares = [
        _take(
            make_train_dataset(
                [Part(clips, _RECIPE)], batch_size=3, seed=0, process_index=p, process_count=2
            ),
            8,
        )
        for p in range(2)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        for p, part in enumerate(parts):
            for key in batch:
                np.testing.assert_array_equal(batch[key][p::2], part[key])


def test_each_window_is_seen_once_an_epoch(array_clip):
    # 27 + 5 windows; the first target frame tells which.
    clips = [array_clip("a", 33, 16, 16, seed=1), array_clip("b", 11, 16, 16, seed=2)]
    spec = zooming_slowmo(lr_crop=4)[0][1]
    recipe = ((0, dataclasses.replace(spec, augment=False)),)
    known = {frame.tobytes() for clip in clips for frame in clip.frames[: clip.num_frames - 6]}
    batches = _take(make_train_dataset([Part(clips, recipe)], batch_size=8, seed=3), 8)
    seen = [np.round(255 * t[0]).astype(np.uint8).tobytes() for batch in batches for t in batch["target"]]
    assert len(known) == 32
    assert set(seen[:32]) == known and set(seen[32:]) == known
    assert seen[:32] != seen[32:]


def test_stage_changes_at_its_batch_and_scale_is_shared(clips):
    recipe = videoinr(lr_crop=4, hr_reduce=1, stage2_step=2)
    shares = [
        _take(
            make_train_dataset([Part(clips, recipe)], batch_size=4, seed=0, process_index=p, process_count=2),
            12,
        )
        for p in range(2)
    ]
    sizes = [[batch["target"].shape for batch in share] for share in shares]
    assert sizes[0] == sizes[1]
    assert [size[1:3] for size in sizes[0][:2]] == [(1, 16)] * 2
    assert all(size[1] == 3 for size in sizes[0][2:])
    assert len({size[2] for size in sizes[0][2:]}) > 2


@pytest.mark.parametrize(("num_workers", "recipe"), [(1, _RECIPE), (2, _DEGRADED)])
def test_workers_make_the_same_batches_from_anywhere(tmp_path, draw_frames, write_video, num_workers, recipe):
    # Real videos: clips travel to worker processes, which open their own files.
    path = write_video(tmp_path / "a.mp4", draw_frames(30, 32, 48))
    clips = [open_video(path, cache_dir=tmp_path / "cache")]
    expected = _take(make_train_dataset([Part(clips, recipe)], batch_size=2, seed=0), 6)
    dataset = make_train_dataset(
        [Part(clips, recipe)], batch_size=2, seed=0, num_workers=num_workers, num_threads=1
    )
    _assert_same(_take_from(dataset, 0, 4), expected[:4])
    _assert_same(_take_from(dataset, 3, 3), expected[3:])


@dataclasses.dataclass(frozen=True)
class _ThreadCountClip:
    """Every level of every frame is the number of threads that BLAS takes where it is read."""

    name: str = "threads"
    num_frames: int = 9
    height: int = 16
    width: int = 16
    scenes: tuple[tuple[int, int], ...] = ((0, 9),)

    def read(self, indices, crop=None):
        (count,) = {
            lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"
        }
        return np.full((len(indices), *(crop[2:] if crop else (16, 16)), 3), count, np.uint8)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_matrix_products_take_one_thread_each(monkeypatch, num_workers):
    # Left to itself BLAS takes all cores for each of the many samples that are made at once.
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")  # in the worker, also on one core
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        dataset = make_train_dataset(
            [Part([_ThreadCountClip()], _RECIPE)],
            batch_size=1,
            seed=0,
            num_workers=num_workers,
            num_threads=1,
        )
        (batch,) = _take(dataset, 1)
    np.testing.assert_array_equal(np.round(batch["target"] * 255), 1)


def test_shapes_are_as_few_as_scales(clips):
    recipe = videoinr(lr_crop=4, hr_reduce=1, stage2_step=0, num_scales=3)
    shapes = {
        b["target"].shape for b in _take(make_train_dataset([Part(clips, recipe)], batch_size=1, seed=0), 30)
    }
    assert shapes == {(1, 3, size, size, 3) for size in (8, 12, 16)}


def test_eval_batches_are_fixed_and_finite(clips):
    spec = _RECIPE[0][1]
    dataset = make_eval_dataset(clips, spec, batch_size=2, num_windows=6)
    batches = list(dataset)
    assert [batch["frames"].shape for batch in batches] == [(2, 4, 4, 4, 3)] * 3
    _assert_same(batches, list(dataset))
    # Half of the windows are of each clip; the middle 16x16 of the first clip's 40x48.
    chosen = choose_windows(clips, spec.span, 6)
    assert chosen == [(0, 4), (0, 12), (0, 20), (1, 1), (1, 5), (1, 9)]
    np.testing.assert_allclose(
        batches[0]["target"][1], clips[0].frames[12:19, 12:28, 16:32] / 255.0, rtol=1e-6
    )


def test_eval_shares_are_disjoint(clips):
    spec = _RECIPE[0][1]
    whole = list(make_eval_dataset(clips, spec, batch_size=6, num_windows=6))[0]
    for p in range(3):
        share = list(
            make_eval_dataset(clips, spec, batch_size=2, num_windows=6, process_index=p, process_count=3)
        )
        np.testing.assert_array_equal(share[0]["target"], whole["target"][p::3])


def test_degraded_eval_batches_are_fixed_and_shared_out(clips):
    spec = _DEGRADED[0][1]
    whole = list(make_eval_dataset(clips, spec, batch_size=6, num_windows=6))
    _assert_same(whole, list(make_eval_dataset(clips, spec, batch_size=6, num_windows=6, num_threads=1)))
    (plain,) = make_eval_dataset(clips, _RECIPE[0][1], batch_size=6, num_windows=6)
    np.testing.assert_array_equal(whole[0]["target"], plain["target"])
    assert (np.abs(whole[0]["frames"] - plain["frames"]).max(axis=(1, 2, 3, 4)) > 0).sum() >= 3
    for p in range(3):
        (share,) = make_eval_dataset(
            clips, spec, batch_size=2, num_windows=6, process_index=p, process_count=3
        )
        np.testing.assert_array_equal(share["frames"], whole[0]["frames"][p::3])


def test_few_windows_are_spread_over_many_clips(array_clip):
    clips = [array_clip(str(n), 9) for n in range(10)] + [array_clip("short", 3)]
    assert [clip for clip, _ in choose_windows(clips, 7, 3)] == [0, 3, 6]
    assert choose_windows(clips[:1], 7, 5) == [(0, 0), (0, 0), (0, 1), (0, 2), (0, 2)]


def test_wrong_numbers_are_named(clips):
    with pytest.raises(ValueError, match="batch_size=0"):
        make_train_dataset([Part(clips, _RECIPE)], batch_size=0, seed=0)
    with pytest.raises(ValueError, match="process_index=2"):
        make_train_dataset([Part(clips, _RECIPE)], batch_size=1, seed=0, process_index=2, process_count=2)
    with pytest.raises(ValueError, match="seed=-1"):
        make_train_dataset([Part(clips, _RECIPE)], batch_size=1, seed=-1)
    with pytest.raises(ValueError, match="num_workers=-1"):
        make_train_dataset([Part(clips, _RECIPE)], batch_size=1, seed=0, num_workers=-1)
    with pytest.raises(ValueError, match="num_windows=5 must be a positive multiple"):
        make_eval_dataset(clips, _RECIPE[0][1], batch_size=2, num_windows=5)
    large = dataclasses.replace(_RECIPE[0][1], lr_crop=8)
    with pytest.raises(ValueError, match="b is 32x24 pixels; validation_crop=8 needs at least 32x32"):
        make_eval_dataset(clips, large, batch_size=2, num_windows=2)
    with pytest.raises(ValueError, match="b is 32x24 pixels"):
        make_train_dataset([Part(clips, zooming_slowmo(lr_crop=8))], batch_size=1, seed=0)


def _constant_clip(array_clip, name, value):
    return dataclasses.replace(array_clip(name), frames=np.full((20, 48, 64, 3), value, np.uint8))


def _mixture(array_clip, **changes):
    first = Part([_constant_clip(array_clip, "a", 10)], _RECIPE, 1)
    second = Part(
        [_constant_clip(array_clip, "b", 200)], zooming_slowmo(lr_crop=4, time_stride=(1, 2), **changes), 3
    )
    return [first, second]


def test_parts_come_by_their_shares(array_clip):
    batches = _take(make_train_dataset(_mixture(array_clip), batch_size=8, seed=0), 10)
    values = np.concatenate([np.round(b["target"][:, 0, 0, 0, 0] * 255) for b in batches])
    assert set(values) == {10, 200}
    assert (values == 200).sum() == 60


def test_mixtures_are_entered_anywhere_and_shared_out_as_one_source_is(array_clip):
    parts = [Part([array_clip("a", seed=1)], _RECIPE, 0.7), Part([array_clip("b", seed=2)], _RECIPE, 0.3)]
    whole = _take(make_train_dataset(parts, batch_size=4, seed=0), 6)
    _assert_same(_take_from(make_train_dataset(parts, batch_size=4, seed=0), 3, 3), whole[3:])
    halves = [
        _take(make_train_dataset(parts, batch_size=2, seed=0, process_index=p, process_count=2), 6)
        for p in range(2)
    ]
    for batch, *shares in zip(whole, *halves, strict=True):
        for p, share in enumerate(shares):
            np.testing.assert_array_equal(batch["target"][p::2], share["target"])


def test_parts_of_other_shapes_are_refused(array_clip):
    with pytest.raises(ValueError, match="same number of inputs and targets"):
        make_train_dataset(_mixture(array_clip, window=5), batch_size=8, seed=0)
