"""The command line from file to file, with networks whose output is known."""

import dataclasses
import json
import os
import signal
import types
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from stvsr_jax.inference import job, pipeline, predictor, work_folder
from stvsr_jax.inference import request as requests
from stvsr_jax.inference.__main__ import main
from stvsr_jax.video import colour, media, sequential_reader
from stvsr_jax.weights import shipped, sources

SIZE = (32, 48)


def moving_bar(count):
    """A bright bar that moves one pixel down per frame over a dark ground."""
    images = np.full((count, *SIZE, 3), 40, np.uint8)
    for i, image in enumerate(images):
        image[i : i + 8] = 200
    return images


def run(capsys, *args):
    """Returns (exit code, lines on stderr that are not progress)."""
    code = main([str(arg) for arg in args])
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return code, [line for line in lines if line and "frame/s" not in line]


def read(path):
    info = sequential_reader.probe(path)
    return info, list(sequential_reader.read_frames(info))


def test_zooming_slowmo_from_file_to_file(tmp_path, write_video, checkpoints, capsys):
    images = moving_bar(10)
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_video(source, images, fps=Fraction(30000, 1001), has_audio=True, metadata={"title": "x"})
    model = ("--checkpoint", checkpoints["zooming_slowmo"])
    code, lines = run(capsys, source, target, *model, "--scene_threshold", 0)
    assert (code, lines) == (0, [])
    info, frames = read(target)
    assert (info.height, info.width, info.rate, len(frames)) == (128, 192, Fraction(60000, 1001), 20)
    assert frames[-1].time + frames[-1].duration == 10 * Fraction(1001, 30000)
    exact = images.astype(float)
    for k, frame in enumerate(frames):
        expected = (exact[k // 2] + exact[min((k + 1) // 2, 9)]) / 2
        assert np.abs(frame.image - expected.repeat(4, 0).repeat(4, 1)).mean() < 2, k
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert after.metadata["title"] == "x"
        sounds = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (before, after)]
    assert sounds[0] == sounds[1] and len(sounds[0]) > 3
    assert sorted(f.name for f in tmp_path.iterdir()) == ["checkpoints", "in.mp4", "out.mp4"]


def test_videoinr_any_scale_rate_and_folders(tmp_path, write_video, checkpoints, capsys):
    images = moving_bar(4)
    source, folder = write_video(tmp_path / "in.mp4", images), tmp_path / "pictures"
    arguments = ("--checkpoint", checkpoints["videoinr"], "--space", 1.5, "--time", 3, "--scene_threshold", 0)
    assert run(capsys, source, folder, *arguments)[0] == 0
    files = sorted(folder.iterdir())
    assert len(files) == 12 and Image.open(files[0]).size == (72, 48)
    column = np.asarray(Image.open(files[4])).astype(float)[:, 10, 0]
    rows = ((np.arange(48) + 0.5) / 1.5).astype(int)
    expected = (images[1] * (2 / 3) + images[2] / 3)[rows, 10, 0]
    assert np.abs(column - expected).mean() < 2

    second = tmp_path / "again.mkv"
    same = ("--space", 1, "--time", 1, "--input_fps", "75", "--codec", "ffv1")
    code, _ = run(capsys, folder, second, *arguments[:2], *same)
    info, frames = read(second)
    assert code == 0 and info.rate == 75
    np.testing.assert_array_equal(frames[4].image, np.asarray(Image.open(files[4])))


@pytest.fixture
def shipped_fakes(monkeypatch, checkpoints):
    """Makes the package hold two sets, of fake networks."""
    monkeypatch.setattr(shipped, "list_names", lambda: ["video", "videoinr"])
    networks = {"video": "zooming_slowmo", "videoinr": "videoinr"}

    def load(source, *, weights):
        return types.SimpleNamespace(model_name=networks[source], model_kwargs={}, params={})

    monkeypatch.setattr(sources, "load", load)


def test_without_weights_the_tool_takes_those_that_fit_and_says_so(
    tmp_path, write_video, shipped_fakes, capsys
):
    source, target = write_video(tmp_path / "in.mp4", moving_bar(4)), tmp_path / "out.mp4"
    for flags, name, size in (((), "video", (128, 192)), (("--space", 2), "videoinr", (64, 96))):
        code, lines = run(capsys, source, target, "--overwrite", *flags)
        assert code == 0 and len(lines) == 1 and lines[0].startswith(f"weights: {name}, from this package")
        assert read(target)[0].height == size[0]
    assert run(capsys, source, target, "--overwrite", "--model", "videoinr") == (0, [])
    code, lines = run(capsys, source, target, "--overwrite", "--model", "video", "--space", 2)
    assert (code, len(lines)) == (2, 1) and "enlarges 4 times only; use videoinr" in lines[0]


def test_pictures_are_clean_input(tmp_path, shipped_fakes, capsys):
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(moving_bar(3)):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i}.png")
    code, lines = run(capsys, tmp_path / "pictures", tmp_path / "out.mp4", "--input_fps", 25)
    assert code == 2 and "takes the weights zooming_slowmo, which are not in this package" in lines[0]


def test_time_1_drops_the_interpolated_frames(tmp_path, write_video, checkpoints, capsys):
    source, target = write_video(tmp_path / "in.mp4", moving_bar(6)), tmp_path / "out.mp4"
    assert run(capsys, source, target, "--checkpoint", checkpoints["zooming_slowmo"], "--time", 1)[0] == 0
    info, frames = read(target)
    assert len(frames) == 6 and info.rate == 25


def test_cuts_are_not_interpolated(tmp_path, write_video, checkpoints, capsys):
    images = np.concatenate([np.full((12, *SIZE, 3), 30, np.uint8), np.full((12, *SIZE, 3), 220, np.uint8)])
    source, target = write_video(tmp_path / "in.mp4", images), tmp_path / "out.mp4"
    assert run(capsys, source, target, "--checkpoint", checkpoints["zooming_slowmo"])[0] == 0
    tones = [int(frame.image.mean()) for frame in read(target)[1]]
    assert np.abs(np.subtract(tones, [30] * 24 + [220] * 24)).max() <= 2


def test_varying_rate_keeps_its_times(tmp_path, write_video, checkpoints, capsys):
    pts = [0, 40, 80, 200, 240, 280, 330, 500]
    source, target = write_video(tmp_path / "in.mkv", moving_bar(8), pts=pts), tmp_path / "out.mp4"
    code, lines = run(capsys, source, target, "--checkpoint", checkpoints["zooming_slowmo"])
    assert code == 0 and "rate varies" in lines[0]
    times = [float(frame.time) * 1000 for frame in read(target)[1]]
    assert times[:15] == [0, 20, 40, 60, 80, 140, 200, 220, 240, 260, 280, 305, 330, 415, 500]
    assert len(times) == 16


def test_preview_and_limit(tmp_path, write_video, checkpoints, capsys):
    source = write_video(tmp_path / "in.mp4", moving_bar(20), has_audio=True)
    for name, flags, count in (("a.mp4", ("--preview", 0.2), 10), ("b.mp4", ("--max_frames", 3), 6)):
        assert (
            run(capsys, source, tmp_path / name, "--checkpoint", checkpoints["zooming_slowmo"], *flags)[0]
            == 0
        )
        assert len(read(tmp_path / name)[1]) == count
        with av.open(str(tmp_path / name)) as container:
            assert max(p.pts * p.time_base for p in container.demux(audio=0) if p.size) < count / 50


def test_comparisons(tmp_path, write_video, checkpoints, capsys):
    source = write_video(tmp_path / "in.mp4", moving_bar(6))
    for name in ("both.png", "both.mp4"):
        arguments = (tmp_path / "out.mp4", "--checkpoint", checkpoints["zooming_slowmo"], "--overwrite")
        assert run(capsys, source, *arguments, "--compare", tmp_path / name)[0] == 0
    assert Image.open(tmp_path / "both.png").size == (3 * 192, 2 * 128)
    info, frames = read(tmp_path / "both.mp4")
    assert (info.height, info.width, len(frames)) == (128, 384, 12)


def test_bad_requests_are_one_line_and_exit_code_2(tmp_path, write_video, checkpoints, capsys):
    good, out = write_video(tmp_path / "in.mp4", moving_bar(3)), tmp_path / "out.mp4"
    old = write_video(tmp_path / "old.mp4", moving_bar(3), codec="mpeg4")
    empty, text, taken = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "taken.mp4"
    empty.touch()
    taken.touch()
    plain = tmp_path / "plain"
    plain.touch()
    text.write_text("no video " * 100)
    model = ("--checkpoint", checkpoints["zooming_slowmo"])
    other = ("--checkpoint", checkpoints["videoinr"])
    before = sorted(tmp_path.iterdir())
    for arguments, message in [
        ((tmp_path / "none.mp4", out, *model), "does not exist"),
        ((empty, out, *model), "is empty"),
        ((text, out, *model), "not a video"),
        ((good, taken, *model), "exists; --overwrite"),
        ((good, good, *model, "--overwrite"), "is the input"),
        ((good, tmp_path / "none" / "out.mp4", *model), "does not exist"),
        ((good, tmp_path / "out.webm", *model), "cannot be written"),
        ((good, tmp_path / "out.xyz", *model), "cannot be written"),
        ((good, out, "--checkpoint", tmp_path / "none"), "no such file or folder"),
        ((good, out, *model, "--space", 3), "use videoinr"),
        ((good, out, *model, "--time", 3), "use videoinr"),
        ((good, out, *other, "--space", 0.5), "space=0.5"),
        ((good, out, *other, "--time", 0), "time=0"),
        ((good, out, *model, "--crf", 99), "crf=99"),
        ((good, out, *model, "--tile", 8), "tile=8"),
        ((good, out, *model, "--max_frames", 0), "max_frames=0"),
        ((good, out, *model, "--preview", -1), "preview=-1"),
        ((good, out, *model, "--fps", 0), "fps=0"),
        ((good, out, *other, "--space", 1e9), "are too large"),
        ((good, out, *other, "--size", "99999x99999"), "output frames of 99999x99999 are too large"),
        ((good, out, *model, "--segment", 0), "segment=0"),
        ((good, out, *other, "--fps", 60, "--time", 2), "--time and --fps exclude"),
        ((good, out, *other, "--size", "96x64", "--space", 2), "--space and --size exclude"),
        ((good, out, *other, "--size", "20x20"), "smaller than the input"),
        ((good, out, *other, "--size", "0x20"), "size=0x20"),
        ((good, out, *model, "--codec", "ffv1", "--crf", 9), "crf=9"),
        ((good, out, *model, "--codec", "prores", "--pixel_format", "yuv420p"), "pixel_format=yuv420p"),
        ((old, out, *model, "--decoder", "cuda"), "decoder=cuda: "),
        ((good, out, *model, "--model", "videoinr"), "--checkpoint and --model exclude each other"),
        ((good, out, *model, "--shard", "0/2"), "needs several inputs"),
        ((good, out, *model, "--shard", "2/2"), "shard=2/2"),
        ((good, *model), "no output given"),
        ((good, ".", *model), "output . names no file"),
        ((good, "/", *model), "output / names no file"),
        ((good, taken, out, *model, "--compare", tmp_path / "c.mp4"), "--compare goes with one input"),
        ((good, text, taken, *model), "must be a folder"),
        ((good, good, tmp_path / "both", *model), "would have one output"),
        ((good, text, tmp_path / "both", *model, "--suffix", "mp4"), "suffix='mp4' must be empty"),
        ((good, plain, *model, "--overwrite"), "is a file; a folder of pictures cannot replace it"),
        ((good, out, *model, "--scene_threshold", -1), "scene_threshold"),
        ((good, out, *model, "--input_fps", 30), "has timestamps"),
        ((good, out, *model, "--compare", out), "is the output"),
        ((good, out, *model, "--compare", tmp_path / "compare.xyz"), "compare.xyz cannot be written"),
        ((good, tmp_path / "pictures", *model, "--compare", tmp_path / "b.webm"), "b.webm cannot be written"),
        ((checkpoints["videoinr"], out, *model), "holds no pictures"),
    ]:
        code, lines = run(capsys, *arguments)
        assert (code, len(lines)) == (2, 1), (arguments, lines)
        assert lines[0].startswith("error: ") and message in lines[0], (arguments, lines)
    assert sorted(tmp_path.iterdir()) == before


def test_unknown_flags_are_exit_code_2(capsys):
    assert run(capsys, "in.mp4")[0] == 2
    assert run(capsys, "in.mp4", "out.mp4", "--checkpoint", "x", "--size", "wide")[0] == 2
    for flag in ("--fps", "--input_fps", "--preview"):
        for value in ("fast", "1/0", "inf", "nan", ""):
            assert run(capsys, "in.mp4", "out.mp4", "--checkpoint", "x", flag, value)[0] == 2
    for value in ("1", "a/b", "1/2/3"):
        assert run(capsys, "in.mp4", "out.mp4", "--checkpoint", "x", "--shard", value)[0] == 2
    assert run(capsys, "in.mp4", "out.mp4", "--checkpoint", "x", "--codec", "none")[0] == 2
    assert run(capsys, "in.mp4", "out.mp4", "--checkpoint", "x", "--decoder", "none")[0] == 2


def test_decimal_rates_end_in_files_of_that_rate(tmp_path, write_video, checkpoints, capsys):
    source = write_video(tmp_path / "in.mp4", moving_bar(6), fps=Fraction(30000, 1001))
    model = ("--checkpoint", checkpoints["videoinr"], "--space", 1)
    assert run(capsys, source, tmp_path / "out.mp4", *model, "--fps", "59.94005994")[0] == 0
    info, frames = read(tmp_path / "out.mp4")
    assert info.rate == Fraction(60000, 1001) and len(frames) == 12
    assert run(capsys, source, tmp_path / "odd.mp4", *model, "--fps", "31.41592653589793")[0] == 0
    assert abs(read(tmp_path / "odd.mp4")[0].rate - Fraction("31.41592653589793")) < 1e-4
    assert run(capsys, source, tmp_path / "frames", *model, "--time", 1)[0] == 0
    flags = (*model, "--input_fps", "29.97002997", "--time", 2)
    assert run(capsys, tmp_path / "frames", tmp_path / "again.mp4", *flags)[0] == 0
    assert read(tmp_path / "again.mp4")[0].rate == Fraction(60000, 1001)


def test_rates_that_no_file_can_say_are_refused(tmp_path, write_video, checkpoints, capsys):
    source = write_video(tmp_path / "in.mp4", moving_bar(3), fps=Fraction(30000, 1001))
    model = ("--checkpoint", checkpoints["videoinr"], "--space", 1)
    for flags, message in (
        (("--fps", "1e12"), "beyond what a video file can say"),
        (("--time", 100_000), "beyond what a video file can say"),
        (("--fps", "1/99999999999"), "less than a frame a day"),
        (("--fps", "1e-9"), "less than a frame a day"),
    ):
        code, lines = run(capsys, source, tmp_path / "out.mp4", *model, *flags)
        assert (code, len(lines)) == (2, 1) and message in lines[0], lines
    assert run(capsys, source, tmp_path / "day.mp4", *model, "--fps", "1/86400")[0] == 0


def test_an_input_that_counts_nanoseconds_can_be_multiplied(tmp_path, write_video, checkpoints, capsys):
    source = tmp_path / "in.mkv"
    write_video(source, moving_bar(4), pts=[0, 40, 90, 200])
    info = sequential_reader.probe(source)
    info = dataclasses.replace(info, time_base=Fraction(1, 10**9))
    request = requests.Request(source, tmp_path / "out.mkv", time=8)
    assert requests._video_format(request, info, (32, 48), 8, None).time_base == Fraction(1, 10**6)


def test_failure_before_the_first_segment_leaves_no_file(
    tmp_path, write_video, checkpoints, capsys, monkeypatch
):
    def broken(*args, **kwargs):
        raise OSError("no space left")
        yield

    monkeypatch.setattr(pipeline, "render", broken)
    source = write_video(tmp_path / "in.mp4", moving_bar(3))
    code, lines = run(capsys, source, tmp_path / "out.mp4", "--checkpoint", checkpoints["zooming_slowmo"])
    assert code == 1 and lines[-1] == "error: no space left"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["checkpoints", "in.mp4"]


def test_size_and_rate_can_be_given_exactly(tmp_path, write_video, checkpoints, capsys):
    source = write_video(tmp_path / "in.mp4", moving_bar(12), fps=24, has_audio=True)
    target = tmp_path / "out.mp4"
    arguments = ("--checkpoint", checkpoints["videoinr"], "--scene_threshold", 0)
    assert run(capsys, source, target, *arguments, "--size", "100x64", "--fps", 60)[0] == 0
    info, frames = read(target)
    assert (info.height, info.width, info.rate, len(frames)) == (64, 100, 60, 30)
    assert info.sample_aspect_ratio == Fraction(48 * 64, 32 * 100)  # the picture keeps its shape
    # Frame 7 is shown at 7/60 s, 2.8 frames after the first: the upper edge of the bar, 2 rows high each.
    column = frames[7].image[:, 50, 0].astype(float)
    assert (
        abs(column[5] - (40 * 0.8 + 200 * 0.2)) < 6 and abs(column[8] - 200) < 6 and abs(column[2] - 40) < 6
    )


def test_zooming_slowmo_takes_its_own_rates_and_sizes_only(tmp_path, write_video, checkpoints, capsys):
    source, target = write_video(tmp_path / "in.mp4", moving_bar(5)), tmp_path / "out.mp4"
    model = ("--checkpoint", checkpoints["zooming_slowmo"])
    assert run(capsys, source, target, *model, "--fps", 50, "--size", "192x128")[0] == 0
    assert len(read(target)[1]) == 10
    for flags, message in ((("--fps", 60), "fps=60"), (("--size", "96x64"), "makes 192x128")):
        code, lines = run(capsys, source, tmp_path / "b.mp4", *model, *flags)
        assert code == 2 and message in lines[-1]


def test_space_1_only_interpolates(tmp_path, write_video, checkpoints, capsys):
    images = moving_bar(4)
    source, folder = write_video(tmp_path / "in.mp4", images), tmp_path / "out"
    arguments = ("--checkpoint", checkpoints["videoinr"], "--space", 1, "--time", 2, "--scene_threshold", 0)
    assert run(capsys, source, folder, *arguments)[0] == 0
    files = sorted(folder.iterdir())
    assert len(files) == 8
    for i, file in enumerate(files[::2]):
        assert np.abs(np.asarray(Image.open(file)).astype(int) - images[i]).mean() < 2


def test_a_still_picture_stays_still(tmp_path, write_video, checkpoints, capsys, monkeypatch):
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8), 30, axis=0)
    source, folder = write_video(tmp_path / "in.mkv", images, codec="ffv1"), tmp_path / "out"
    calls = []
    predict = predictor.Predictor.predict_windows
    monkeypatch.setattr(
        predictor.Predictor,
        "predict_windows",
        lambda *args, **kwargs: calls.append(1) or predict(*args, **kwargs),
    )
    assert run(capsys, source, folder, "--checkpoint", checkpoints["zooming_slowmo"])[0] == 0
    files = sorted(folder.iterdir())
    assert len(files) == 60 and len({file.read_bytes() for file in files}) == 1 and len(calls) == 1


def test_several_inputs_and_folders_go_into_a_folder(tmp_path, write_video, checkpoints, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mkv"):
        write_video(folder / name, moving_bar(3))
    (folder / "c.mp4").write_text("no video")
    (folder / "notes.txt").write_text("x")
    other = write_video(tmp_path / "d.mp4", moving_bar(3))
    target = tmp_path / "out"
    arguments = (folder, other, target, "--checkpoint", checkpoints["zooming_slowmo"])
    code, lines = run(capsys, *arguments)
    assert code == 2 and any("c.mp4 is not a video" in line for line in lines)
    assert sorted(f.name for f in target.iterdir()) == ["a.mp4", "b.mp4", "d.mp4"]
    times = {f: f.stat().st_mtime_ns for f in target.iterdir()}
    (target / "d.mp4").unlink()
    code, lines = run(capsys, *arguments)
    assert sum("skipped" in line for line in lines) == 2
    assert all(f.stat().st_mtime_ns == t for f, t in times.items() if f.name != "d.mp4")
    assert len(read(target / "d.mp4")[1]) == 6

    code, lines = run(capsys, folder, other, tmp_path / "none", *arguments[-2:], "--shard", "5/6")
    assert (code, lines) == (0, ["note: shard 5/6 has no input"]) and not (tmp_path / "none").exists()

    part = tmp_path / "part"
    assert run(capsys, folder, other, part, *arguments[-2:], "--shard", "1/2")[0] == 0
    assert sorted(f.name for f in part.iterdir()) == ["b.mp4", "d.mp4"]


def test_a_batch_of_pictures_keeps_dots_in_names(tmp_path, write_video, checkpoints, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "my.first.clip.mp4", moving_bar(3))
    arguments = (folder, tmp_path / "out", "--checkpoint", checkpoints["zooming_slowmo"], "--suffix", "")
    assert run(capsys, *arguments)[0] == 0
    (result,) = (tmp_path / "out").iterdir()
    assert result.name == "my.first.clip" and len(list(result.glob("*.png"))) == 6
    code, lines = run(capsys, *arguments)
    assert code == 0 and "skipped" in lines[0]
    assert run(capsys, *arguments, "--overwrite", "--max_frames", 2)[0] == 0
    assert len(list(result.glob("*.png"))) == 4


def test_the_input_folder_is_no_output_folder(tmp_path, write_video, checkpoints, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mkv", moving_bar(3))
    code, lines = run(capsys, folder, folder, "--checkpoint", checkpoints["zooming_slowmo"], "--overwrite")
    assert (code, len(lines)) == (2, 1) and "is the input folder" in lines[0]
    assert [f.name for f in folder.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize("error", [KeyError("x"), AssertionError(), RuntimeError("odd"), MemoryError()])
def test_any_exception_ends_one_input_not_the_batch(
    tmp_path, write_video, checkpoints, capsys, monkeypatch, error
):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_video(folder / name, moving_bar(3))
    real = job.run

    def fail(plan, *args, **kwargs):
        if plan.request.input.name == "b.mp4":
            raise error
        return real(plan, *args, **kwargs)

    monkeypatch.setattr(job, "run", fail)
    code, lines = run(capsys, folder, tmp_path / "out", "--checkpoint", checkpoints["zooming_slowmo"])
    assert code == 1 and sorted(f.name for f in (tmp_path / "out").iterdir()) == ["a.mp4", "c.mp4"]
    assert [line for line in lines if line.startswith("error")] == [
        f"error: {type(error).__name__}: {error}".removesuffix(": ")
    ]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_batch(tmp_path, write_video, checkpoints, capsys, monkeypatch, number, code):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(folder / name, moving_bar(3))
    real = job.run

    def stop(*args, **kwargs):
        os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    monkeypatch.setattr(job, "run", stop)
    arguments = (folder, tmp_path / "out", "--checkpoint", checkpoints["zooming_slowmo"])
    assert run(capsys, *arguments)[0] == code
    assert not any((tmp_path / "out").glob("b.*"))


def test_a_batch_that_overwrites_goes_on_with_what_it_has_not_replaced(
    tmp_path, write_video, checkpoints, capsys
):
    sources, out = tmp_path / "in", tmp_path / "out"
    sources.mkdir()
    out.mkdir()
    write_video(sources / "a.mp4", moving_bar(3))
    (sources / "b.mp4").write_text("no video")
    (out / "a.mp4").write_text("old")
    command = (sources, out, "--checkpoint", checkpoints["zooming_slowmo"], "--overwrite")
    assert run(capsys, *command)[0] == 2
    first = (out / "a.mp4").stat().st_mtime_ns
    assert len(read(out / "a.mp4")[1]) == 6
    write_video(sources / "b.mp4", moving_bar(4))
    code, lines = run(capsys, *command, "--crf", 30)  # another batch: nothing of it is done
    assert code == 0 and not any("done already" in line for line in lines)
    (sources / "b.mp4").write_text("no video")
    assert run(capsys, *command)[0] == 2
    second = (out / "a.mp4").stat().st_mtime_ns
    assert second > first
    write_video(sources / "b.mp4", moving_bar(4))
    code, lines = run(capsys, *command)
    assert code == 0 and sum("a.mp4 is done already" in line for line in lines) == 1
    assert (out / "a.mp4").stat().st_mtime_ns == second and len(read(out / "b.mp4")[1]) == 8
    assert sorted(file.name for file in out.iterdir()) == ["a.mp4", "b.mp4"]
    assert run(capsys, *command)[0] == 0 and (out / "a.mp4").stat().st_mtime_ns > second


def test_info_writes_nothing(tmp_path, write_video, checkpoints, capsys):
    source = write_video(tmp_path / "in.mp4", moving_bar(9))
    before = sorted(tmp_path.iterdir())
    assert main([str(source), "--info", "--checkpoint", str(checkpoints["zooming_slowmo"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("in.mp4, 48x32, 25 frames/s, 9 frames, 0.36 s, 8 bits per component")
    assert lines[1] == "output: 192x128, 50 frames/s, 18 frames"
    assert [line.split(":")[0] for line in lines[3:]] == ["windows", "time", "memory"]
    assert lines[3].startswith("windows: about 3 of 4 frames")
    assert sorted(tmp_path.iterdir()) == before


def test_a_cut_off_file_is_read_as_far_as_it_goes(tmp_path, write_video, checkpoints, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (20, *SIZE, 3), np.uint8)
    whole = write_video(tmp_path / "in.mkv", noise)
    part = tmp_path / "part.mkv"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    arguments = (part, tmp_path / "out.mp4", "--checkpoint", checkpoints["zooming_slowmo"], "--time", 1)
    assert run(capsys, *arguments)[0] == 0
    assert 3 < len(read(tmp_path / "out.mp4")[1]) < 20


@pytest.mark.parametrize("name", ["cut10:30", "file:a", "http:a", "50%03d", "x" * 246, "x" * 251, "ü" * 125])
def test_any_name_of_a_file_will_do(tmp_path, write_video, checkpoints, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    write_video(tmp_path / f"{name}.mkv", moving_bar(3), has_audio=True)
    model = ("--checkpoint", checkpoints["zooming_slowmo"])
    for target in (f"out/{name}.mp4", f"{name}.mp4", "out/pictures:a"):
        code, lines = run(capsys, f"{name}.mkv", target, *model)
        assert (code, lines) == (0, []), target
        assert (tmp_path / target).exists()
    compare = f"out/{'y' * 200}:b.mp4"
    assert run(capsys, f"{name}.mkv", "out/c.mp4", *model, "--compare", compare)[0] == 0
    names = {"c.mp4", f"{name}.mp4", "pictures:a", compare[4:]}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names


def test_a_name_that_is_too_long_is_one_line(tmp_path, write_video, checkpoints, capsys):
    source = write_video(tmp_path / "a.mkv", moving_bar(3))
    code, lines = run(
        capsys, source, tmp_path / ("x" * 256 + ".mp4"), "--checkpoint", checkpoints["videoinr"]
    )
    assert code == 2 and len(lines) == 1 and "File name too long" in lines[0]
    folder = tmp_path / "given"
    folder.mkdir()
    write_video(folder / f"{'x' * 252}.ts", moving_bar(20))
    write_video(folder / "b.ts", moving_bar(20))
    model = ("--checkpoint", checkpoints["zooming_slowmo"])
    code, lines = run(capsys, folder, tmp_path / "out", *model)
    assert code == 2 and "File name too long" in " ".join(lines)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b.mp4"]


def test_a_title_that_is_not_utf_8_is_carried_over(tmp_path, write_video, checkpoints, capsys):
    source = write_video(tmp_path / "a.avi", moving_bar(3), has_audio=True, metadata={"title": "CafE"})
    source.write_bytes(source.read_bytes().replace(b"CafE", b"Caf\xe9"))
    code, lines = run(capsys, source, tmp_path / "b.mp4", "--checkpoint", checkpoints["zooming_slowmo"])
    assert code == 0, lines
    assert read(tmp_path / "b.mp4")[0].metadata["title"] == "Café"


@pytest.mark.parametrize("suffix", ["ts", "vob"])
def test_sound_stays_with_the_picture_where_the_clock_starts_again(
    tmp_path, write_sound, checkpoints, capsys, suffix
):
    # In each part the picture brightens from the start, and the second half alone is silent.
    def fade(found):
        return found[: len(found) // 2]

    codec = "aac" if suffix == "ts" else "ac3"
    part = write_sound(
        tmp_path / f"part.{suffix}", codec=codec, seconds=2, picture="mpeg2video", edit=fade
    ).read_bytes()
    source = tmp_path / f"a.{suffix}"
    source.write_bytes(part * 3)
    code, lines = run(capsys, source, tmp_path / "b.mp4", "--checkpoint", checkpoints["zooming_slowmo"])
    assert code == 0, lines
    info, frames = read(tmp_path / "b.mp4")
    assert float(frames[-1].time + frames[-1].duration) == pytest.approx(6, abs=0.05)
    with media.open_to_read(tmp_path / "b.mp4") as container:
        stream = container.streams.audio[0]
        times = [float(packet.pts * stream.time_base) for packet in container.demux(stream) if packet.size]
    begins = [b for a, b in zip(times, times[1:], strict=False) if b - a > 0.5]
    assert begins == pytest.approx([2 + times[0], 4 + times[0]], abs=0.05)


def test_a_name_that_is_no_text_is_printed_escaped(tmp_path, write_video, checkpoints, capsys):
    damaged = tmp_path / "caf\udce9.mp4"
    damaged.write_bytes(b"no video")
    options = ("--checkpoint", str(checkpoints["videoinr"]), "--space", "2")
    assert main([str(damaged), str(tmp_path / "out.mp4"), *options]) == 2
    assert "caf\\udce9.mp4" in capsys.readouterr().err
    whole = write_video(tmp_path / "a.mp4", moving_bar(4)).rename(tmp_path / "w\udce9.mp4")
    code = main([str(whole), *options, "--info"])
    assert code == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def progress_of(target):
    return work_folder.path_of(target) / "progress.json"


def test_a_job_keeps_the_number_format_and_the_batch_it_was_begun_with(
    tmp_path, write_video, checkpoints, capsys, monkeypatch
):
    source, target = write_video(tmp_path / "in.mp4", moving_bar(30)), tmp_path / "out.mp4"
    command = (source, target, "--checkpoint", checkpoints["zooming_slowmo"], "--segment", 8)
    used = []
    real = predictor.Predictor.predict_windows

    def predict(self, frames, *args, **kwargs):
        used.append((self.dtype, len(frames)))
        if len(used) == 4:
            raise OSError("broken")
        return real(self, frames, *args, **kwargs)

    monkeypatch.setattr(predictor.Predictor, "predict_windows", predict)
    code, lines = run(capsys, *command, "--dtype", "float16", "--batch", 2)
    assert code == 1 and lines[0].startswith("note: the network computes in float16")
    assert json.loads(progress_of(target).read_text())["request"]["dtype"] == "float16"
    code, lines = run(capsys, *command, "--batch", 2, "--dtype", "float32")
    assert code == 1 and "differs in" in lines[-1] and "dtype" in lines[-1]
    assert run(capsys, *command, "--batch", 2)[0] == 0
    assert set(used) == {("float16", 2)} and len(read(target)[1]) == 60


def test_one_program_serves_the_job_its_picture_and_its_estimate(
    tmp_path, write_video, checkpoints, capsys, monkeypatch
):
    source, used = write_video(tmp_path / "in.mp4", moving_bar(9)), set()
    real = predictor.Predictor.predict_windows

    def predict(self, frames, *args, **kwargs):
        used.add(len(frames))
        return real(self, frames, *args, **kwargs)

    monkeypatch.setattr(predictor.Predictor, "predict_windows", predict)
    command = (source, tmp_path / "out.mp4", "--checkpoint", checkpoints["zooming_slowmo"], "--batch", 3)
    assert run(capsys, *command, "--info")[0] == 0
    assert run(capsys, *command, "--compare", tmp_path / "both.png")[0] == 0
    assert used == {3} and Image.open(tmp_path / "both.png").size == (3 * 192, 2 * 128)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le"])
def test_planes_from_the_device_and_from_rgb_show_the_same(
    tmp_path, write_video, checkpoints, capsys, monkeypatch, pixel_format
):
    """What an accelerator packs into planes and what a CPU gives as RGB are one file, but for a level here and there."""
    source = write_video(tmp_path / "in.mkv", moving_bar(4), codec="ffv1")
    given = []
    predict = predictor.Predictor.predict_windows

    def spy(*args, **kwargs):
        given.append((result := predict(*args, **kwargs))[0][0].ndim)
        return result

    monkeypatch.setattr(predictor.Predictor, "predict_windows", spy)
    shared = (
        "--checkpoint",
        checkpoints["zooming_slowmo"],
        "--codec",
        "ffv1",
        "--pixel_format",
        pixel_format,
    )
    layout_of = job.layout_of
    assert run(capsys, source, tmp_path / "rgb.mkv", *shared)[0] == 0
    assert set(given) == {3}
    monkeypatch.setattr(job, "layout_of", lambda plan, platform: layout_of(plan, "gpu"))
    assert run(capsys, source, tmp_path / "planes.mkv", *shared)[0] == 0
    assert set(given) == {3, 1}
    assert run(capsys, source, tmp_path / "folder", *shared[:2])[0] == 0  # of PNGs
    assert given[-1] == 3
    one, other = (
        [colour.to_8_bits(frame.image).astype(int) for frame in read(tmp_path / name)[1]]
        for name in ("planes.mkv", "rgb.mkv")
    )
    difference = np.abs(np.stack(one) - np.stack(other))
    assert len(one) == 8 and difference.max() <= 3 and difference.mean() < 0.5
