"""The benchmark of the input pipeline measures what it says, and names what is wrong before it starts."""

import json
import pathlib
import subprocess
import sys
import time

import ml_collections
import pytest

from stvsr_jax.data import benchmark, pipeline, transforms
from stvsr_jax.data.windows import videoinr, zooming_slowmo

ROOT = pathlib.Path(__file__).parents[2]


class SlowClip:
    """A clip whose reads take so many seconds."""

    def __init__(self, clip, seconds):
        self._clip, self._seconds = clip, seconds

    def read(self, *args):
        time.sleep(self._seconds)
        return self._clip.read(*args)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._clip, name)


def test_parts_add_up_and_go_to_who_spent_them(array_clip, monkeypatch):
    real = transforms.augment
    monkeypatch.setattr(transforms, "augment", lambda *args: (time.sleep(0.003), real(*args))[1])
    spec = zooming_slowmo(lr_crop=4)[0][1]
    parts = benchmark.time_parts([SlowClip(array_clip(), 0.005)], spec, seed=0)
    total = parts.pop("total")
    assert parts.keys() == {"decode", "reduce", "augment", "degrade", "other"}
    assert sum(parts.values()) == pytest.approx(total)
    assert parts["decode"] >= 5 and parts["augment"] >= 3
    assert 0 < parts["reduce"] < total - 8 and 0 < parts["other"] < total - 8


def test_throughput_is_that_of_the_slowest_part(array_clip):
    recipe = videoinr(lr_crop=4, stage2_step=None, hr_reduce=2)
    part = pipeline.Part([SlowClip(array_clip(height=80, width=80), 0.05)], recipe)
    rate = benchmark.measure_throughput([part], batch_size=2, seed=0, num_workers=0, seconds=0.5)
    # What is ready when the clock starts, and what at most 8 threads make in the time that it shows.
    assert 0 < rate <= 2 * 8 / 0.5 + 8 / 0.05


def make_config(folder, **changes):
    recipe = {"name": "videoinr", "window": 3, "lr_crop": 4, "hr_reduce": 1, "stage2_step": 7}
    data = {
        "path": str(folder),
        "strict": False,
        "cache_dir": "",
        "cache_gb": 0.0,
        "cut_threshold": 0.0,
        "degrade": "",
        "recipe": recipe,
        "batch_size": 2,
        "num_workers": 0,
        "split": "time",
        "validation_fraction": 0.25,
        "validation_windows": 2,
        "validation_crop": 4,
    }
    return ml_collections.ConfigDict({"data": data | changes, "seed": 0})


def test_record_has_all_stages_and_worker_counts(clip_folder):
    record = benchmark.run(make_config(clip_folder), workers=[0, 1], seconds=0.05, step_seconds=0.01)
    assert record["needed_samples_per_second"] == pytest.approx(200)
    assert [stage["first_step"] for stage in record["stages"]] == [0, 7]
    for stage in record["stages"]:
        assert stage["samples_per_second"].keys() == {0, 1}
        assert all(rate > 0 for rate in stage["samples_per_second"].values())
    lines = list(benchmark.format_record(record))
    rate = record["stages"][0]["samples_per_second"][0]
    assert any(line.startswith("      0") and line.endswith(f"{100 * rate / 200:.0f} %") for line in lines)
    assert "noise 32x24" in lines[0]


def test_unfit_config_is_named(clip_folder):
    config = make_config(clip_folder, stride=3)
    with pytest.raises(ValueError, match="config.data must have the keys .* it has .*'stride'"):
        benchmark.run(config, workers=[0], seconds=0.1, step_seconds=None)
    config = make_config(clip_folder / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing"):
        benchmark.run(config, workers=[0], seconds=0.1, step_seconds=None)


def run_command(*arguments):
    command = [sys.executable, "-m", "stvsr_jax.data.benchmark", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_command_prints_a_record(clip_folder):
    done = run_command(
        *("--config", "tests/linear_config.py", f"--config.data.path={clip_folder}"),
        *("--workers=0", "--seconds=0.05", "--json"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["batch_size"] == 2 and record["stages"][0]["samples_per_second"]["0"] > 0
    assert record["needed_samples_per_second"] is None


def test_numbers_of_workers_are_whole():
    assert benchmark._parse_workers(["0", " 2"]) == [0, 2]
    with pytest.raises(ValueError, match="--workers=two must be whole numbers"):
        benchmark._parse_workers(["two"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/videoinr.py", "--config.data.path=no"], "error: no video or folder at no"),
        (["--config=nothing.py"], "error: [Errno 2] No such file or directory: 'nothing.py'"),
    ],
)
def test_wrong_calls_end_with_one_line(arguments, message):
    """Of each kind one; tests/test_config_flag.py has the flags."""
    done = run_command(*arguments)
    assert done.returncode == 2 and done.stderr.strip().startswith(message)
    assert done.stderr.count("\n") == 1
