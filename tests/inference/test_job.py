"""Jobs that are killed, stopped or run out of disk, most in processes of their own, and gone on with."""

import dataclasses
import itertools
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import types

import av
import numpy as np
import pytest

from stvsr_jax.inference import job, request, work_folder
from stvsr_jax.inference.__main__ import main
from stvsr_jax.video import codecs, sequential_reader
from tests.limits import HANG
from tests.virtual_devices import environment_with

SCRIPT = pathlib.Path(__file__).with_name("interrupted.py")
SIZE = (32, 48)
COUNT = 60  # windows take 50 ms each: the whole takes one to three seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the tests share; they write elsewhere."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def source(folder, write_video):
    """A video of moving noise with a cut in its middle, and sound."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (2, 8, 12, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    images = np.stack([np.roll(scenes[i * 2 // COUNT], i, axis=1) for i in range(COUNT)])
    return write_video(folder / "in.mp4", images, has_audio=True)


@pytest.fixture(scope="module")
def model(folder):
    network = folder / "models" / "zooming_slowmo"
    network.mkdir(parents=True)
    return network


def start(*args, limit=None, cores=16, devices=1):
    """Starts the command line; `limit` is the largest file that it may write. 16 cores encode four segments at a time."""

    def set_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, args), "--segment", "16", str(cores)],
        env=environment_with(devices),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=set_limit if limit else None,
    )


def finish(process):
    """Returns (exit code, stderr)."""
    _, errors = process.communicate(timeout=HANG)
    return process.returncode, errors


def progress_of(output):
    file = output.with_name(f"{output.name}.unfinished") / "progress.json"
    return json.loads(file.read_text())["progress"] if file.exists() else None


def wait_for(process, output, count):
    """Waits until `count` outputs are safe."""
    while process.poll() is None:
        progress = progress_of(output)
        if progress and progress["outputs"] >= count:
            return
        time.sleep(0.005)
    raise AssertionError(f"ended too early: {process.stderr.read()}")


def kill(process):
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL


def names(folder):
    return sorted(child.name for child in folder.iterdir())


@pytest.fixture(scope="module")
def whole(folder, source, model):
    """The output of a job that is never stopped."""
    output = folder / "whole.mp4"
    assert finish(start(source, output, "--checkpoint", model))[0] == 0
    return output


def test_killed_jobs_go_on_and_give_the_same_files(tmp_path, source, model):
    def arguments_in(folder):
        return (source, folder / "out.mp4", "--checkpoint", model, "--compare", folder / "both.mp4")

    (tmp_path / "whole").mkdir()
    assert finish(start(*arguments_in(tmp_path / "whole")))[0] == 0
    (tmp_path / "killed").mkdir()
    arguments = arguments_in(tmp_path / "killed")
    output = arguments[1]
    for count in (1, 50, 90):
        process = start(*arguments)
        wait_for(process, output, count)
        kill(process)
        assert not output.exists() and progress_of(output)["outputs"] >= count
    code, errors = finish(start(*arguments))
    assert code == 0 and "120/120" in errors
    for name in ("both.mp4", "out.mp4"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    frames = list(sequential_reader.read_frames(sequential_reader.probe(output.with_name("both.mp4"))))
    assert len(frames) == 2 * COUNT and names(output.parent) == ["both.mp4", "out.mp4"]


def test_killed_before_anything_is_safe_starts_anew(tmp_path, source, model, whole):
    output = tmp_path / "out.mp4"
    process = start(source, output, "--checkpoint", model)
    while not (tmp_path / "out.mp4.unfinished" / "0.packets").exists():
        time.sleep(0.005)
    kill(process)
    assert progress_of(output) is None
    assert finish(start(source, output, "--checkpoint", model))[0] == 0
    assert output.read_bytes() == whole.read_bytes() and "out.mp4.unfinished" not in names(tmp_path)


def test_killed_jobs_go_on_with_pictures(tmp_path, source, model):
    folders = [tmp_path / "whole", tmp_path / "pictures"]
    for folder in folders:
        process = start(source, folder, "--checkpoint", model)
        if folder.name == "pictures":
            wait_for(process, folder, 40)
            kill(process)
            process = start(source, folder, "--checkpoint", model)
        assert finish(process)[0] == 0
    assert names(folders[0]) == names(folders[1]) and len(names(folders[0])) == 2 * COUNT
    assert all((folders[0] / n).read_bytes() == (folders[1] / n).read_bytes() for n in names(folders[0]))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_jobs_leave_a_file_that_plays_and_go_on(tmp_path, source, model, whole, number, code):
    output = tmp_path / "out.mp4"
    arguments = (source, output, "--checkpoint", model)
    process = start(*arguments)
    wait_for(process, output, 30)
    process.send_signal(number)
    found, errors = finish(process)
    assert found == code and "the same command goes on" in errors and not output.exists()
    assert names(tmp_path) == ["out.mp4.unfinished"]
    partial = tmp_path / "out.mp4.unfinished" / "out.partial.mp4"
    info = sequential_reader.probe(partial)
    frames = list(sequential_reader.read_frames(info))
    complete = list(sequential_reader.read_frames(sequential_reader.probe(whole)))
    assert 30 <= len(frames) < 2 * COUNT and info.rate == 50
    for frame, expected in zip(frames, complete, strict=False):
        assert frame.time == expected.time
        assert np.abs(frame.image.astype(int) - expected.image).mean() < 4
    with av.open(str(partial)) as container:
        assert len(container.streams.audio) == 1

    other = finish(start(*arguments, "--crf", 30))
    assert other[0] == 1 and "differs in crf" in other[1]
    assert finish(start(*arguments))[0] == 0
    assert output.read_bytes() == whole.read_bytes()
    assert names(tmp_path) == ["out.mp4"]


def test_the_second_signal_stops_at_once(tmp_path, source, model, whole):
    output = tmp_path / "out.mp4"
    arguments = (source, output, "--checkpoint", model)
    process = start(*arguments)
    wait_for(process, output, 30)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    code, errors = finish(process)
    assert code == 130 and not output.exists(), errors
    assert finish(start(*arguments))[0] == 0
    assert output.read_bytes() == whole.read_bytes()


def test_cores_and_devices_do_not_show_in_the_file(tmp_path, source, model, whole):
    for name, number in (("cores", 1), ("devices", 2)):
        output = tmp_path / f"{name}.mp4"
        assert finish(start(source, output, "--checkpoint", model, **{name: number}))[0] == 0
        assert output.read_bytes() == whole.read_bytes(), name


def test_a_full_disk_stops_the_job_and_it_goes_on_later(tmp_path, source, model, whole):
    output = tmp_path / "out.mp4"
    limit = whole.stat().st_size // 2
    code, errors = finish(start(source, output, "--checkpoint", model, limit=limit))
    assert code == 1 and "error: " in errors and "too large" in errors.lower() and not output.exists()
    assert "out.mp4.unfinished, the same command goes on from there" in errors
    assert 0 < progress_of(output)["outputs"] < 2 * COUNT
    # Room for all packets, none for the finished file with its sound.
    store = tmp_path / "out.mp4.unfinished" / "0.packets"
    code, errors = finish(start(source, output, "--checkpoint", model, limit=whole.stat().st_size - 2000))
    assert code == 1 and not output.exists() and store.exists() and progress_of(output)["is_complete"]
    assert finish(start(source, output, "--checkpoint", model))[0] == 0
    assert output.read_bytes() == whole.read_bytes() and "out.mp4.unfinished" not in names(tmp_path)


def test_segments_of_other_settings_of_the_encoder_are_not_gone_on_with(tmp_path, source, monkeypatch):
    """Of a version with another default, say: one header would not fit both."""
    network = types.SimpleNamespace(identity="network", dtype="float32")
    plan = request.make_plan(request.Request(source, tmp_path / "out.mp4"), "zooming_slowmo")
    before = job.identify(plan, network)
    assert json.loads(json.dumps(before)) == before == job.identify(plan, network)
    decoded = dataclasses.replace(plan, request=dataclasses.replace(plan.request, decoder="cuda"))
    assert job.identify(decoded, network) == before  # the frames are the same
    other = dataclasses.replace(codecs.CODECS["h264"], options={"preset": "slow"})
    monkeypatch.setitem(codecs.CODECS, "h264", other)
    after = job.identify(plan, network)
    assert [name for name in after if after[name] != before[name]] == ["encoder"]


def test_segments_show_in_nothing_but_key_frames(tmp_path, source, model, whole):
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    assert [p.pts for p in sorted(packets, key=lambda p: p.pts)] == [
        packets[0].pts + n * packets[0].duration for n in range(2 * COUNT)
    ]
    assert all(a.dts < b.dts for a, b in zip(packets, packets[1:], strict=False))
    assert sum(p.is_keyframe for p in packets) >= 6


class Killed(BaseException):
    """Stands for SIGKILL: nothing is cleaned up for it but what would not matter."""


def kill_at(monkeypatch, call):
    """Makes the process end before the `call`-th file is put in place or removed; returns how many there were."""
    counts = []

    def count(function):
        def counted(*args, **kwargs):
            if not str(args[0]).endswith(".new"):  # progress
                counts.append(args)
                if len(counts) == call:
                    raise Killed
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(os, "replace", count(os.replace))
    monkeypatch.setattr(os, "unlink", count(os.unlink))
    return counts


@pytest.mark.parametrize("kind", ["pictures", "compare", "batch of pictures", "batch of videos"])
def test_killed_while_putting_in_place_is_never_taken_for_complete(
    tmp_path, write_video, checkpoints, capsys, monkeypatch, kind
):
    (tmp_path / "given").mkdir()
    source = write_video(tmp_path / "given" / "a.mp4", np.zeros((3, *SIZE, 3), np.uint8), has_audio=True)
    model = ("--checkpoint", checkpoints["zooming_slowmo"], "--scene_threshold", 0)
    arguments = {
        "pictures": lambda folder: (source, folder / "a"),
        "compare": lambda folder: (source, folder / "a.mp4", "--compare", folder / "b.mp4"),
        "batch of pictures": lambda folder: (source.parent, folder, "--suffix", ""),
        "batch of videos": lambda folder: (source.parent, folder),
    }[kind]

    def run(folder):
        code = main([str(argument) for argument in (*arguments(folder), *model)])
        return code, capsys.readouterr().err

    def contents(folder):
        return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

    whole = tmp_path / "whole"
    whole.mkdir()
    assert run(whole)[0] == 0
    expected = contents(whole)
    for call in itertools.count(1):
        folder = tmp_path / f"killed-{call}"
        folder.mkdir()
        with monkeypatch.context() as patch:
            counts = kill_at(patch, call)
            try:
                code, _ = run(folder)
            except Killed:
                code = None
        if code is not None:
            break
        is_done = contents(folder).items() >= expected.items()
        code, errors = run(folder)
        if "batch" in kind or not is_done:
            assert code == 0, (call, errors)
        else:  # a single job refuses what is complete
            assert code in (0, 2), (call, errors)
        found = contents(folder)
        assert {name: found.get(name) for name in expected} == expected, call
        assert is_done or found.keys() == expected.keys()
    assert call > 3 and len(counts) < call


@pytest.mark.parametrize(
    ("codec", "count"),
    [("h264", 2), *(pytest.param(codec, 100, marks=pytest.mark.heavy) for codec in ("h264", "hevc"))],
)
def test_killed_at_random_moments_gives_the_same_file(tmp_path, source, model, codec, count):
    output = tmp_path / "out.mp4"
    arguments = (source, output, "--checkpoint", model, "--codec", codec)
    begun = time.monotonic()
    assert finish(start(*arguments, "--overwrite"))[0] == 0
    length = time.monotonic() - begun
    expected = output.read_bytes()
    rng = np.random.default_rng(count)
    for _ in range(count):
        if output.exists() and not work_folder.is_being_finished(output):
            assert output.read_bytes() == expected
            output.unlink()
        process = start(*arguments)
        try:
            process.wait(timeout=rng.uniform(0, length))
        except subprocess.TimeoutExpired:
            process.kill()
        code, errors = finish(process)
        assert code in (0, -signal.SIGKILL), errors
    if not output.exists() or work_folder.is_being_finished(output):
        code, errors = finish(start(*arguments))
        assert code == 0, errors
    assert output.read_bytes() == expected
