"""Data sets are prepared completely or not at all, and what was done is not done again."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from stvsr_jax.data import prepare, prepared
from stvsr_jax.data.builders import Vimeo90k, shards
from stvsr_jax.locks import only_one
from stvsr_jax.video import tile_codec
from tests.limits import HANG


def run(vimeo_root, data_dir, *arguments):
    return prepare.main(
        [
            "vimeo90k",
            "--source",
            str(vimeo_root),
            "--data_dir",
            str(data_dir),
            "--num_workers",
            "1",
            *arguments,
        ]
    )


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(Vimeo90k, "CLIPS_PER_SHARD", 1)


def test_every_frame_of_every_clip_is_there(vimeo, tmp_path, capsys):
    root, frames = vimeo
    assert run(root, tmp_path / "data") == 0
    assert "--config.data.path=" + str(tmp_path / "data" / "vimeo90k") in capsys.readouterr().out
    found = {
        clip.name: clip
        for split in prepared.list_splits(tmp_path / "data" / "vimeo90k")
        for clip in prepared.open_split(tmp_path / "data" / "vimeo90k", split)
    }
    assert found.keys() == frames.keys()
    for name, clip in found.items():
        np.testing.assert_array_equal(clip.read(range(7)), frames[name])
    assert "tensorflow" not in sys.modules
    # Nothing is left of the making.
    assert {file.split("/")[0] for file in files_below(tmp_path / "data" / "vimeo90k")} == {".lock", "2.0.0"}


def test_archive_is_prepared_as_it_is(vimeo, tmp_path):
    root, frames = vimeo
    archive = shutil.make_archive(tmp_path / "septuplets", "zip", root.parent, root.name)
    assert run(archive, tmp_path / "data") == 0
    for clip in prepared.open_split(tmp_path / "data" / "vimeo90k", "train"):
        np.testing.assert_array_equal(clip.read(range(7)), frames[clip.name])


def test_builders_work_as_tfds_builders(vimeo, tmp_path):
    builder = Vimeo90k(data_dir=tmp_path / "data")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=vimeo[0]))
    source = tfds.data_source("vimeo90k", split="test", data_dir=tmp_path / "data")
    assert len(source) == 14 and (source[8]["clip"], source[8]["frame"]) == (b"00001/0268", 1)


def test_several_processes_make_the_same(vimeo, tmp_path, small_shards):
    root, _ = vimeo
    for count in (1, 2):
        prepare.prepare("vimeo90k", source=root, data_dir=tmp_path / str(count), num_workers=count)
    one, two = (tmp_path / name / "vimeo90k" / "2.0.0" for name in "12")
    assert files_below(one) == files_below(two)
    for split in ("train", "test"):
        for a, b in zip(prepared.open_split(one, split), prepared.open_split(two, split), strict=True):
            assert a.name == b.name
            np.testing.assert_array_equal(a.read(range(7)), b.read(range(7)))


def test_interrupted_it_goes_on_where_it_was(vimeo, tmp_path, small_shards, monkeypatch, capsys):
    root, frames = vimeo
    encoded, real = [], tile_codec.encode

    def encode(planes, pixel_format, limit):
        if len(encoded) == limit:
            raise KeyboardInterrupt
        encoded.append(planes)
        return real(planes, pixel_format)

    # Two clips of seven frames are finished, the third is half-way.
    monkeypatch.setattr(tile_codec, "encode", functools.partial(encode, limit=17))
    assert run(root, tmp_path / "data") == 130
    assert "goes on from here" in capsys.readouterr().err
    assert prepared.find_prepared(tmp_path / "data" / "vimeo90k") is None
    encoded.clear()
    monkeypatch.setattr(tile_codec, "encode", functools.partial(encode, limit=None))
    assert run(root, tmp_path / "data") == 0
    assert len(encoded) == 3 * 7
    for clip in prepared.open_split(tmp_path / "data" / "vimeo90k", "train"):
        np.testing.assert_array_equal(clip.read(range(7)), frames[clip.name])
    # Prepared, nothing is done.
    assert run(root, tmp_path / "data") == 0
    assert len(encoded) == 3 * 7


def test_killed_nothing_looks_complete(vimeo, tmp_path):
    root, _ = vimeo
    folder = tmp_path / "data" / "vimeo90k"
    script = (
        "import sys, time; from stvsr_jax.data import prepare; from stvsr_jax.video import tile_codec; real = tile_codec.encode\n"
        "from stvsr_jax.data.builders import Vimeo90k; Vimeo90k.CLIPS_PER_SHARD = 1\n"
        "tile_codec.encode = lambda *args: (time.sleep(0.02), real(*args))[1]\n"
        "sys.exit(prepare.main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        script,
        "vimeo90k",
        "--source",
        str(root),
        "--data_dir",
        str(folder.parent),
    ]
    with subprocess.Popen([*command, "--num_workers", "1"], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + HANG
        while not list(folder.glob("unfinished-*/*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert list(folder.glob("unfinished-*/*.json"))
    assert prepared.find_prepared(folder) is None
    with pytest.raises(ValueError, match="holds no prepared data set"):
        prepared.open_split(folder, "train")
    assert run(root, folder.parent) == 0
    assert [clip.name for clip in prepared.open_split(folder, "test")] == ["00001/0266", "00001/0268"]
    assert {file.split("/")[0] for file in files_below(folder)} == {".lock", "2.0.0"}


def test_death_while_linking_leaves_nothing_that_looks_complete(vimeo, tmp_path, monkeypatch):
    root, _ = vimeo
    folder = tmp_path / "data" / "vimeo90k"
    (folder / "incomplete.ABC123_2.0.0").mkdir(parents=True)
    (folder / "incomplete.ABC123_2.0.0" / "dataset_info.json").write_text("{}")
    assert prepared.find_prepared(folder) is None
    assert run(root, folder.parent) == 0
    assert not (folder / "incomplete.ABC123_2.0.0").exists()


def test_damaged_frames_are_named_and_the_rest_is_kept(vimeo, tmp_path, small_shards, capsys, monkeypatch):
    root, _ = vimeo
    bad = [
        root / "sequences" / "00001" / "0002" / "im3.png",
        root / "sequences" / "00001" / "0268" / "im7.png",
    ]
    whole = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(path.read_bytes()[:100])
    assert run(root, tmp_path / "data") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ") and all(str(path) in message for path in bad)
    assert "Replace them and run again: the rest is kept" in message
    assert prepared.find_prepared(tmp_path / "data" / "vimeo90k") is None
    for path, data in zip(bad, whole, strict=True):
        path.write_bytes(data)
    encoded = []
    real = tile_codec.encode
    monkeypatch.setattr(tile_codec, "encode", lambda *args: encoded.append(0) or real(*args))
    assert run(root, tmp_path / "data") == 0
    assert len(encoded) == 2 * 7


def test_shards_of_a_changed_source_are_not_used(vimeo, tmp_path, small_shards):
    root, _ = vimeo
    builder = Vimeo90k(data_dir=tmp_path / "data")
    planned = {s: shards.plan(clips, 1) for s, clips in builder.find_clips(root).items()}
    shards.make(planned, builder.parts_dir, num_workers=1, description="test")
    path = root / "sequences" / "00001" / "0001" / "im1.png"
    path.write_bytes((root / "sequences" / "00001" / "0002" / "im1.png").read_bytes())
    (clip, *_) = prepared.open_split(
        prepare.prepare("vimeo90k", source=root, data_dir=tmp_path / "data"), "train"
    )
    second = prepared.open_split(tmp_path / "data" / "vimeo90k", "train")[1]
    np.testing.assert_array_equal(clip.read([0]), second.read([0]))


def test_full_disk_ends_with_one_line(vimeo, tmp_path):
    script = (
        "import resource, sys; from stvsr_jax.data import prepare\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))\n"
        "sys.exit(prepare.main(sys.argv[1:]))"
    )
    arguments = ["vimeo90k", "--source", vimeo[0], "--data_dir", tmp_path / "data", "--num_workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: a shard cannot be written: ")
    assert "Traceback" not in done.stderr
    assert prepared.find_prepared(tmp_path / "data" / "vimeo90k") is None
    assert not list((tmp_path / "data" / "vimeo90k").glob("unfinished-*/*.array_record"))


def test_two_at_once_are_refused(vimeo, tmp_path, capsys):
    with only_one(tmp_path / "data" / "vimeo90k" / ".lock", "being prepared"):
        assert run(vimeo[0], tmp_path / "data") == 2
    assert "vimeo90k is being prepared by another process" in capsys.readouterr().err


def test_a_partial_set_is_not_taken_for_the_complete_one(vimeo, tmp_path, capsys):
    root, frames = vimeo
    left_out = root / "sequences" / "00001" / "0266"
    left_out.rename(tmp_path / "away")
    assert run(root, tmp_path / "data", "--partial") == 0
    folder = tmp_path / "data" / "vimeo90k"
    before = files_below(folder)
    assert run(root, tmp_path / "data", "--partial") == 0  # the same source: done
    assert run(root, tmp_path / "data") == 2  # which is incomplete
    assert "lacks 7 of what belongs to vimeo90k: 00001/0266/im1.png" in capsys.readouterr().err
    (tmp_path / "away").rename(left_out)
    for arguments in ((), ("--partial",)):
        assert run(root, tmp_path / "data", *arguments) == 2
        message = "was prepared with --partial, without 1 clips that are there now: 00001/0266; delete it"
        assert message in capsys.readouterr().err
    assert files_below(folder) == before
    shutil.rmtree(folder / "2.0.0")
    assert run(root, tmp_path / "data") == 0
    splits = prepared.list_splits(folder)
    assert {clip.name for s in splits for clip in prepared.open_split(folder, s)} == frames.keys()
    left_out.rename(tmp_path / "away")  # what is done stays done
    assert run(root, tmp_path / "data") == 0


def test_further_splits_come_from_lists(vimeo, tmp_path):
    (tmp_path / "slow.txt").write_text("00001/0266\n")
    assert run(vimeo[0], tmp_path / "data", "--test_list", f"slow={tmp_path / 'slow.txt'}") == 0
    folder = tmp_path / "data" / "vimeo90k"
    assert prepared.list_splits(folder) == ["train", "test", "test_slow"]
    (clip,) = prepared.open_split(folder, "test_slow")
    np.testing.assert_array_equal(clip.read([6]), vimeo[1]["00001/0266"][6:])


def test_splits_that_a_prepared_set_lacks_are_named(vimeo, tmp_path, capsys):
    (tmp_path / "slow.txt").write_text("00001/0266\n")
    assert run(vimeo[0], tmp_path / "data") == 0
    assert run(vimeo[0], tmp_path / "data", "--test_list", f"slow={tmp_path / 'slow.txt'}") == 2
    assert "was prepared without test_slow; delete it to add them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vimeo90k", "--source", "nowhere"], "error: source=nowhere does not exist"),
        (["gopro", "--source", "."], "error: . is not gopro as it is published; expected GOPRO_Large_all"),
        (["gopro", "--source", ".", "--test_list", "a=b"], "--test_list is for vimeo90k, not for gopro"),
        (["vimeo90k", "--source", ".", "--test_list", "b"], "--test_list=b= must be NAME=FILE"),
        (["vimeo90k", "--source", ".", "--num_workers", "0"], "num_workers=0 must be at least 1"),
    ],
)
def test_wrong_calls_end_with_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare.main([*arguments, "--data_dir", "data"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
