"""The whole way of a video, timed stage by stage, with a network that repeats pixels."""

import json

import jax
import numpy as np
import pytest

from stvsr_jax import stages
from stvsr_jax.inference import device_processes, speed
from stvsr_jax.inference.predictor import Predictor
from tests.inference import device_fakes


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The network alone is timed for a moment, not for seconds."""
    monkeypatch.setattr(speed, "_ALONE_SECONDS", 0.1)


def clip(write_video, path, count=12):
    return write_video(path, np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), np.uint8))


def run(capsys, *args):
    code = speed.main([str(arg) for arg in args])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "flags"), [("zooming_slowmo", ()), ("videoinr", ("--time", 3, "--space", 2))]
)
def test_every_stage_has_handled_every_frame(tmp_path, write_video, checkpoints, capsys, name, flags):
    source = clip(write_video, tmp_path / "in.mp4")
    command = (source, "--checkpoint", checkpoints[name], *flags)
    code, output = run(capsys, *command, "--json")
    record = json.loads(output.out)
    frames = 12 * (3 if flags else 2)
    assert code == 0 and [stage["name"] for stage in record["stages"]] == [
        "read",
        "network",
        "convert",
        "encode",
        "store",
    ]
    assert {stage["items"] for stage in record["stages"]} == {frames}
    for stage in record["stages"]:
        assert 0 < stage["share_busy"] <= 1
        # Nothing is faster as a whole than its slowest part.
        assert stage["rate"] >= 0.99 * record["frames_per_second"]
    assert record["network_alone"] > 0 and record["encoder_alone"] > 0 and record["file_bytes"] > 0
    assert record["frames_per_second"] == pytest.approx(frames / record["seconds"])


def test_the_table_names_what_holds_the_run(tmp_path, write_video, checkpoints, capsys):
    source = clip(write_video, tmp_path / "in.mp4")
    code, output = run(capsys, source, "--checkpoint", checkpoints["zooming_slowmo"], "--sink", "null")
    lines = output.out.splitlines()
    assert code == 0 and lines[1].endswith("192x128, 24 frames, null")
    assert any(line.startswith("network alone: ") for line in lines)
    assert not any(line.startswith(("encode", "encoder")) for line in lines)
    assert lines[-1].startswith("bottleneck: ")


def test_several_gpus_are_measured_as_the_command_runs_them(
    tmp_path, write_video, checkpoints, capsys, monkeypatch
):
    monkeypatch.setattr(device_processes, "count_gpus", lambda: 3)
    monkeypatch.setattr(
        jax.config, "update", lambda name, value: None
    )  # this process has only the CPU anyway
    monkeypatch.setattr(
        Predictor,
        "from_pretrained",
        lambda source, *, dtype, devices: device_fakes.make_predictor(dtype=dtype),
    )
    source = clip(write_video, tmp_path / "in.mp4")
    records = []
    for flags in ((), ("--devices", 1)):
        command = (source, "--checkpoint", checkpoints["zooming_slowmo"], "--sink", "null", "--json", *flags)
        code, output = run(capsys, *command)
        assert code == 0
        records.append(json.loads(output.out))
    assert [record["devices"][:7] for record in records] == ["3 x cpu", "1 x cpu"]
    assert [record["stages"][1]["workers"] for record in records] == [3, 1]
    assert min(record["network_alone"] for record in records) > 0
    assert {record["network"] for record in records} == {"zooming_slowmo, float32"}


def test_the_bottleneck_is_the_busiest_stage_if_it_is_full():
    def usage(**busy):
        return [stages.Usage(name, 2, 10, 2 * share, 1.0) for name, share in busy.items()]

    assert speed.name_bottleneck(usage(read=0.1, encode=0.95)) == "encode (95% busy)"
    assert speed.name_bottleneck(usage(read=0.1, encode=0.5)).startswith("none: ")


def test_random_weights_need_no_checkpoint(tmp_path, write_video, capsys, monkeypatch):
    loaded = []
    monkeypatch.setattr(speed, "measure", lambda args: loaded.append(speed.load(args)) or {})
    monkeypatch.setattr(speed, "describe", lambda record: [])
    source = clip(write_video, tmp_path / "in.mp4")
    assert run(capsys, source, "--random", "videoinr", "--dtype", "bfloat16")[0] == 0
    assert (loaded[0].name, loaded[0].dtype) == ("videoinr", "bfloat16")


def test_wrong_input_is_one_line(tmp_path, checkpoints, capsys):
    code, output = run(capsys, tmp_path / "none.mp4", "--checkpoint", checkpoints["videoinr"])
    assert code == 2 and output.err == f"error: input {tmp_path / 'none.mp4'} does not exist\n"
    assert run(capsys)[0] == 2
