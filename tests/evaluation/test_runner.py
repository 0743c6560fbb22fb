"""A whole evaluation: its numbers, its files, going on, and what it refuses."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from PIL import Image

from stvsr_jax import bicubic
from stvsr_jax.evaluation import datasets, methods, results, runner
from stvsr_jax.evaluation.protocols import PROTOCOLS


@pytest.fixture
def make_job(clips_folder):
    """Return make(protocol, model=..., **options): a job on the folder's clips."""

    def make(protocol="zsm", model="bicubic_blend", **options):
        protocol = PROTOCOLS[protocol]
        clips = datasets.open_dataset("folder", clips_folder, protocol)
        return runner.Job(
            methods.open_method(model), "folder", "clips", str(clips_folder), None, clips, protocol, **options
        )

    return make


def psnr_y(prediction, target):
    weights = np.array([65.481, 128.553, 24.966]) / 255
    error = np.mean(((prediction.astype(np.float64) - target) @ weights) ** 2)
    return 10 * math.log10(255**2 / error)


def test_numbers_of_zsm_by_hand(tmp_path, clips_folder, make_job):
    record = runner.evaluate(make_job(), tmp_path / "out")
    expected = {}
    for name, size, count in (("a", (28, 36), 19), ("b", (28, 40), 7)):
        files = sorted((clips_folder / name).iterdir())
        truth = np.stack([np.asarray(Image.open(file)) for file in files])[:count, : size[0], : size[1]]
        low = bicubic.to_uint8(bicubic.imresize(truth[::2], scale=0.25))
        high = bicubic.imresize(low.astype(np.float64), scale=4.0)
        made = [high[n // 2] if n % 2 == 0 else (high[n // 2] + high[n // 2 + 1]) / 2 for n in range(count)]
        expected[name] = [psnr_y(bicubic.to_uint8(m), t) for m, t in zip(made, truth, strict=True)]
    rows = results.read_csv(tmp_path / "out" / "frames.csv")
    assert [(row.clip, row.frame) for row in rows] == [
        *(("a", n) for n in range(19)),
        *(("b", n) for n in range(7)),
    ]
    # A sum that falls on a half is rounded up or down by the last bit of float32: one level of one pixel.
    np.testing.assert_allclose(
        [row.scores["psnr_y"] for row in rows], expected["a"] + expected["b"], atol=2e-3
    )
    mean = (np.mean(expected["a"]) + np.mean(expected["b"])) / 2
    assert record["scores"]["psnr_y"] == pytest.approx(mean, abs=1e-3)
    assert [row.is_given for row in rows[:4]] == [True, False, True, False]
    assert [row.time for row in rows[:4]] == ["0", "1/2", "1", "1/2"]


def test_twice_gives_identical_numbers_on_any_number_of_devices(tmp_path, make_job):
    job = make_job("average", with_tof=True)
    records = [
        runner.evaluate(job, tmp_path / "0"),
        runner.evaluate(job, tmp_path / "1"),
        runner.evaluate(job, tmp_path / "2", devices=jax.devices()[:1] * 3),
    ]
    files = [(tmp_path / str(n) / "frames.csv").read_bytes() for n in range(3)]
    assert files[0] == files[1] == files[2]
    for record in records:
        del record["date"], record["seconds_per_frame"]
    assert records[0] == records[1] == records[2]


def test_record_says_what_was_measured_with_what(tmp_path, make_job):
    record = runner.evaluate(make_job(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "record.json").read_text()) == record
    assert record["status"] == "complete" and record["frames"] == 26 and record["identical_frames"] == 0
    settings = record["settings"]
    assert settings["method"] == {"name": "bicubic_blend"}
    assert settings["protocol"]["name"] == "zsm" and settings["protocol"]["rounded"]
    assert settings["dataset"]["clips"] == {"a": [19, 28, 36], "b": [9, 28, 40]}
    assert settings["dataset"]["low_resolution"] == "MATLAB bicubic 1/4, 8-bit"
    assert settings["versions"]["jax"] == jax.__version__
    assert settings["device"]["platform"] == jax.devices()[0].platform
    assert record["seconds_per_frame"] > 0 and record["date"].endswith("+00:00")


def test_interrupted_evaluation_goes_on_where_it_stopped(tmp_path, make_job, monkeypatch):
    job = make_job()
    whole = runner.evaluate(job, tmp_path / "whole")
    read, seen = datasets.EvaluationClip.read, []

    def stop_in_b(clip, window):
        if clip.name == "b":
            raise OSError("the disk is gone")
        return read(clip, window)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is gone"):
        patch.setattr(datasets.EvaluationClip, "read", stop_in_b)
        runner.evaluate(job, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out" / "clips").iterdir()] == ["00000_a.csv"]
    assert json.loads((tmp_path / "out" / "record.json").read_text())["status"] == "running"

    def watch(clip, window):
        seen.append(clip.name)
        return read(clip, window)

    monkeypatch.setattr(datasets.EvaluationClip, "read", watch)
    record = runner.evaluate(job, tmp_path / "out")
    assert set(seen) == {"b"}
    assert record["scores"] == whole["scores"]
    assert (tmp_path / "out" / "frames.csv").read_bytes() == (tmp_path / "whole" / "frames.csv").read_bytes()
    seen.clear()
    assert runner.evaluate(job, tmp_path / "out")["scores"] == whole["scores"] and not seen


def test_folder_of_another_evaluation_is_refused(tmp_path, make_job):
    runner.evaluate(make_job(), tmp_path / "out")
    with pytest.raises(ValueError, match="another evaluation: .*protocol.name='zsm' .here 'full'."):
        runner.evaluate(make_job("full"), tmp_path / "out")
    with pytest.raises(ValueError, match="method.name='bicubic_blend' .here 'bicubic_repeat'."):
        runner.check(make_job(model="bicubic_repeat"), tmp_path / "out")
    for text in ("", "[]", "{}", "3"):
        (tmp_path / "torn").mkdir(exist_ok=True)
        (tmp_path / "torn" / "record.json").write_text(text)
        with pytest.raises(ValueError, match="torn/record.json is damaged or of something else"):
            runner.check(make_job(), tmp_path / "torn")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="mine exists and is no evaluation"):
        runner.check(make_job(), tmp_path / "mine")


def test_check_writes_nothing(tmp_path, make_job):
    runner.check(make_job(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tof_is_of_consecutive_frames(tmp_path, make_job):
    runner.evaluate(make_job("average", with_tof=True), tmp_path / "out")
    rows = results.read_csv(tmp_path / "out" / "frames.csv")
    # a: two windows side by side, 0 to 15; b: one, 0 to 7. The first frame of a clip has none before it.
    assert [row.frame for row in rows if "tof" not in row.scores] == [0, 0]
    assert len(rows) == 24 and all(row.scores["tof"] >= 0 for row in rows if row.frame)
    with pytest.raises(ValueError, match="consecutive frames, and protocol center scores none"):
        runner.check(make_job("center", with_tof=True), tmp_path / "center")


@pytest.mark.parametrize("protocol", ["zsm", "center", "v3_center"])
def test_frames_are_saved_on_request(tmp_path, clips_folder, make_job, protocol):
    runner.evaluate(make_job(protocol, saves_frames=True), tmp_path / "out")
    rows = results.read_csv(tmp_path / "out" / "frames.csv")
    for folder in ("predictions", "targets"):
        saved = sorted(
            f.relative_to(tmp_path / "out" / folder).as_posix()
            for f in (tmp_path / "out" / folder).rglob("*.png")
        )
        assert saved == [f"{'00000_a' if r.clip == 'a' else '00001_b'}/{r.frame:05d}.png" for r in rows]
    row = rows[-1]
    target, prediction = (
        np.asarray(Image.open(tmp_path / "out" / folder / "00001_b" / f"{row.frame:05d}.png"))
        for folder in ("targets", "predictions")
    )
    truth = np.asarray(Image.open(sorted((clips_folder / "b").iterdir())[row.frame]))[:28, :40]
    np.testing.assert_array_equal(target, truth)
    # A protocol in float is scored before the frame is rounded for the file.
    assert psnr_y(prediction, target) == pytest.approx(
        row.scores["psnr_y"], abs=0.05 if protocol == "center" else 1e-3
    )


def test_equal_frames_have_infinite_psnr_in_every_file(tmp_path, make_job):
    class Perfect:
        tile = 0

        def __init__(self):
            self.targets = iter(targets)

        def predict(self, frames, times, *, space, rounded):
            return next(self.targets)

    job = make_job()
    targets = [c.read(w)[1] for c in job.clips for w in job.protocol.plan(c.num_frames)]
    method = dataclasses.replace(job.method, window_size=4, make=Perfect)
    record = runner.evaluate(dataclasses.replace(job, method=method), tmp_path / "out")
    assert record["scores"]["psnr_y"] == math.inf and record["scores"]["ssim_y"] == pytest.approx(1)
    assert record["identical_frames"] == record["frames"] == 26
    text = (tmp_path / "out" / "record.json").read_text()
    assert '"psnr_y": "inf"' in text and "Infinity" not in text


def test_network_that_renders_no_numbers_is_named(tmp_path, make_job):
    class Broken:
        tile = 0

        def predict(self, frames, times, *, space, rounded):
            return np.full((len(times), 28, 36, 3), np.nan, np.float32)

    job = make_job("average")
    job = dataclasses.replace(job, method=dataclasses.replace(job.method, make=Broken))
    with pytest.raises(FloatingPointError, match="frame 0 of clip a"):
        runner.evaluate(job, tmp_path / "out")
