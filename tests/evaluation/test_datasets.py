"""Layouts of the published data sets, what is read from them, and what is refused before a frame is decoded."""

import shutil

import numpy as np
import pytest
from PIL import Image

from stvsr_jax import bicubic
from stvsr_jax.data import splits
from stvsr_jax.evaluation import datasets
from stvsr_jax.evaluation.datasets import open_dataset
from stvsr_jax.evaluation.protocols import PROTOCOLS, Window

ZSM, AVERAGE, V3_AVERAGE = (PROTOCOLS[name] for name in ("zsm", "average", "v3_average"))


@pytest.fixture
def write_headers():
    """Return write(folder, count): 1-colour frames of 16x20, quick to write."""

    def write(folder, count, *, height=16, width=20):
        folder.mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (width, height)).save(folder / f"{n:03d}.png")
        return folder

    return write


def frames_of(folder):
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])


def test_folder_is_cropped_and_reduced_by_matlabs_bicubic_in_8_bits(clips_folder):
    a, b = open_dataset("folder", clips_folder, ZSM)
    assert (a.name, a.num_frames, a.size) == ("a", 19, (28, 36))
    assert (b.name, b.num_frames, b.size) == ("b", 9, (28, 40))
    frames, target = a.read(Window((12, 14, 16, 18), (13, 14, 15)))
    stored = frames_of(clips_folder / "a")[:, :28, :36]
    np.testing.assert_array_equal(target, stored[[13, 14, 15]])
    assert frames.dtype == target.dtype == np.uint8
    expected = bicubic.to_uint8(bicubic.imresize(stored[[12, 14, 16, 18]], scale=0.25))
    np.testing.assert_array_equal(frames, expected)


def test_float_protocols_neither_clamp_nor_round_low_resolution(tmp_path):
    (tmp_path / "clip").mkdir()
    step = np.zeros((32, 32, 3), np.uint8)
    step[:, 16:] = 255
    for n in range(9):
        Image.fromarray(step).save(tmp_path / "clip" / f"{n}.png")
    (clip,) = open_dataset("folder", tmp_path, AVERAGE)
    frames, target = clip.read(Window((0, 8), (0,)))
    assert frames.dtype == np.float32 and target.dtype == np.uint8
    assert frames.min() < -0.001 and frames.max() > 1.001  # bicubic overshoots at the edge
    np.testing.assert_allclose(
        frames[0], bicubic.imresize(step.astype(np.float64), scale=0.25) / 255, atol=1e-6
    )


def test_grid_sees_the_same_pixels_at_every_scale(tmp_path, write_clip):
    write_clip(tmp_path / "c" / "clip", 17, 65, 75)
    for name, protocol in PROTOCOLS.items():
        if name.startswith("grid"):
            (clip,) = open_dataset("folder", tmp_path / "c", protocol)
            window = protocol.plan(clip.num_frames)[0]
            frames, target = clip.read(window)
            assert target.shape == (len(window.scored), 60, 72, 3)
            assert frames.shape == (2, 60 // protocol.space, 72 // protocol.space, 3)


def test_reduced_ground_truth_is_8_bit(clips_folder):
    a, _ = open_dataset("folder", clips_folder, PROTOCOLS["zsm"], reduce=1.5)
    assert a.size == (20, 24)  # 20 x 25 cropped
    frames, target = a.read(Window((0, 2, 4, 6), (0, 3)))
    stored = frames_of(clips_folder / "a")[[0, 3]]
    np.testing.assert_array_equal(
        target, bicubic.to_uint8(bicubic.imresize(stored, scale=1 / 1.5))[:, :20, :24]
    )
    assert frames.shape == (4, 5, 6, 3)


@pytest.mark.parametrize("protocol", [ZSM, AVERAGE, V3_AVERAGE])
def test_given_low_resolution_is_used_as_it_is(tmp_path, clips_folder, write_clip, protocol):
    write_clip(tmp_path / "low" / "a", 19, 7, 9)
    write_clip(tmp_path / "low" / "b", 9, 7, 10)
    a, _ = open_dataset("folder", clips_folder, protocol, given=tmp_path / "low")
    frames, target = a.read(Window((0, 8), (3,)))
    low = frames_of(tmp_path / "low" / "a")[[0, 8]]
    np.testing.assert_array_equal(frames, low if protocol.has_8_bit_input else low.astype(np.float32) / 255)
    np.testing.assert_array_equal(target[0], frames_of(clips_folder / "a")[3, :28, :36])


def test_low_resolution_that_does_not_fit_is_named(tmp_path, clips_folder, write_clip):
    low = tmp_path / "low"
    write_clip(low / "a", 19, 7, 9)
    with pytest.raises(
        ValueError, match=r"different clips: only in the former \['b'\], only in the latter \[\]"
    ):
        open_dataset("folder", clips_folder, ZSM, given=low)
    write_clip(low / "b", 8, 7, 10)
    with pytest.raises(ValueError, match="clip b has 9 frames and 8 of low resolution"):
        open_dataset("folder", clips_folder, ZSM, given=low)
    shutil.rmtree(low / "b")
    write_clip(low / "b", 9, 7, 11)
    with pytest.raises(
        ValueError, match="clip b .* 40x28 .* low resolution of 11x7; protocol zsm needs 10x7"
    ):
        open_dataset("folder", clips_folder, ZSM, given=low)


def test_what_cannot_be_measured_is_named(tmp_path, clips_folder, write_headers):
    with pytest.raises(ValueError, match="clip b has 9 frames; protocol grid_t12_s4 needs 13"):
        open_dataset("folder", clips_folder, PROTOCOLS["grid_t12_s4"])
    with pytest.raises(
        ValueError, match=r"clip a .* 8x8 pixels \(reduced 4 times.*at least 16x16 are needed"
    ):
        open_dataset("folder", clips_folder, ZSM, reduce=4)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_dataset("folder", tmp_path / "nowhere", ZSM)
    with pytest.raises(FileNotFoundError, match="lowhere"):
        open_dataset("folder", clips_folder, ZSM, given=tmp_path / "lowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no videos"):
        open_dataset("folder", tmp_path / "empty", ZSM)
    with pytest.raises(ValueError, match="data set 'vid5' is not one of folder, vid4, spmc"):
        open_dataset("vid5", clips_folder, ZSM)
    with pytest.raises(ValueError, match="reduce=0.5 must be"):
        open_dataset("folder", clips_folder, ZSM, reduce=0.5)
    with pytest.raises(ValueError, match="list of clips .* is for Vimeo-90k"):
        open_dataset("vid4", clips_folder, ZSM, clip_list=tmp_path)


@pytest.mark.parametrize("place", ["", "GT", "HR"])
def test_vid4_in_its_usual_places(tmp_path, write_headers, place):
    for name, count in datasets.VID4_FRAMES.items():
        write_headers(tmp_path / "Vid4" / place / name, count)
    clips = open_dataset("vid4", tmp_path / "Vid4", ZSM)
    assert {c.name: c.num_frames for c in clips} == {"calendar": 41, "city": 34, "foliage": 49, "walk": 47}
    frames = [sum(len(w.scored) for w in ZSM.plan(clip.num_frames)) for clip in clips]
    assert frames == [37, 31, 49, 43] and sum(frames) == 160


def test_other_folders_are_not_vid4(tmp_path, clips_folder, write_headers):
    with pytest.raises(ValueError, match="clips is not Vid4: .*clips lacks calendar, city, foliage, walk"):
        open_dataset("vid4", clips_folder, ZSM)
    for name, count in datasets.VID4_FRAMES.items():
        write_headers(tmp_path / "Vid4" / name, count)
    next((tmp_path / "Vid4" / "city").iterdir()).unlink()
    with pytest.raises(ValueError, match="city has 33 frames; city of Vid4 has 34"):
        open_dataset("vid4", tmp_path / "Vid4", ZSM)
    shutil.rmtree(tmp_path / "Vid4" / "walk")
    with pytest.raises(ValueError, match="Vid4 lacks walk"):
        open_dataset("vid4", tmp_path / "Vid4", ZSM)


def test_spmc(tmp_path, write_headers):
    for name in ("car05_001", "hdclub_001"):
        write_headers(tmp_path / "SPMCS" / "test_set" / name / "truth", 7)
        write_headers(tmp_path / "SPMCS" / "test_set" / name / "input4", 7, height=4, width=5)
    given = open_dataset("spmc", tmp_path / "SPMCS", ZSM, given=tmp_path / "SPMCS")
    assert [clip.name for clip in given] == ["car05_001", "hdclub_001"]
    assert all(clip.given.height == 4 for clip in given)
    with pytest.raises(ValueError, match="car05_001 is not SPMC: no folder CLIP/truth"):
        open_dataset("spmc", tmp_path / "SPMCS" / "test_set" / "car05_001", ZSM)


def test_vimeo90k_needs_its_list_and_all_of_it(tmp_path, write_headers, monkeypatch):
    assert datasets.VIMEO_CLIPS == {"fast": 1225, "medium": 4977, "slow": 1613}
    monkeypatch.setitem(datasets.VIMEO_CLIPS, "fast", 2)
    root = tmp_path / "vimeo_septuplet"
    write_headers(root / "sequences" / "00001" / "0625", 7)
    with pytest.raises(ValueError, match="needs its list of clips; there is no .*fast_testset.txt"):
        open_dataset("vimeo90k-fast", root, ZSM)
    (root / "fast_testset.txt").write_text("00001/0625\n00002/0001\n")
    with pytest.raises(ValueError, match="is not Vimeo-90k fast: .*sequences lacks 00002/0001"):
        open_dataset("vimeo90k-fast", root, ZSM)
    write_headers(root / "sequences" / "00002" / "0001", 7)
    assert [c.name for c in open_dataset("vimeo90k-fast", root, ZSM)] == ["00001/0625", "00002/0001"]
    assert (
        len(open_dataset("vimeo90k-fast", root / "sequences", ZSM, clip_list=root / "fast_testset.txt")) == 2
    )
    (root / "short.txt").write_text("00001/0625\n\n")
    with pytest.raises(ValueError, match="short.txt lists 1 different clips; Vimeo-90k fast has 2"):
        open_dataset("vimeo90k-fast", root, ZSM, clip_list=root / "short.txt")
    next((root / "sequences" / "00002" / "0001").iterdir()).unlink()
    with pytest.raises(ValueError, match="0001 has 6 frames; a clip of Vimeo-90k has 7"):
        open_dataset("vimeo90k-fast", root, ZSM)


@pytest.mark.parametrize(
    ("name", "clips", "count"),
    [("gopro", sorted(splits.GOPRO_TEST), 11), ("adobe240", sorted(splits.ADOBE240_TEST), 17)],
)
def test_high_speed_test_splits(tmp_path, write_headers, name, clips, count):
    assert len(set(clips)) == count
    for clip in clips:
        write_headers(tmp_path / "test" / clip, 9)
    write_headers(tmp_path / "test" / "GOPR0000_training", 9)
    assert [clip.name for clip in open_dataset(name, tmp_path, AVERAGE)] == clips
    shutil.rmtree(tmp_path / "test" / clips[3])
    with pytest.raises(ValueError, match=f"test split: .*test lacks {clips[3]}$"):
        open_dataset(name, tmp_path, AVERAGE)
