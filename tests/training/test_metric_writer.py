"""metrics.csv, TensorBoard scalars and pictures, lines without a terminal, a bar on one."""

import io
import sys
from unittest.mock import Mock

import fsspec
import numpy as np
import pytest
import tensorboardX
from etils import epath
from PIL import Image
from tensorboardX.proto import event_pb2

from stvsr_jax.training.metric_writer import MetricWriter, format_seconds


def read_scalars(directory):
    """Return [(step, tag, value)] of a directory's event files."""
    found = []
    for path in sorted((directory / "tensorboard").glob("events.*")):
        data = path.read_bytes()
        while data:  # length, its checksum, the event, its checksum
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [
                (event.step, value.tag, value.image if value.HasField("image") else value.simple_value)
                for value in event.summary.value
            ]
            data = data[16 + length :]
    return found


def make_writer(directory, **changes):
    return MetricWriter(directory, **{"first_step": 0, "num_steps": 10, "is_writer": True} | changes)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_scalars_are_recorded_by_step(tmp_path):
    with make_writer(tmp_path) as writer:
        writer.write(2, {"train/loss": 0.5, "train/psnr": 20.0})
        writer.write(4, {"train/loss": 0.25})
    assert read_scalars(tmp_path) == [
        (2, "train/loss", 0.5),
        (2, "train/psnr", 20.0),
        (4, "train/loss", 0.25),
    ]


def test_numbers_outlive_a_kill_while_a_run_starts_again(tmp_path, monkeypatch):
    with make_writer(tmp_path) as writer:
        for step in (2, 4):
            writer.write(step, {"train/loss": 0.5, "train/psnr": 20.0})
    before = (tmp_path / "metrics.csv").read_text()

    def write_half(path, text):
        with path.open("w") as file:
            file.write(text[:20])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(tmp_path)), "write_text", write_half)
        with pytest.raises(KeyboardInterrupt):
            make_writer(tmp_path, first_step=2)
    assert (tmp_path / "metrics.csv").read_text() == before
    with make_writer(tmp_path, first_step=2):
        assert (tmp_path / "metrics.csv").read_text() == "".join(before.splitlines(keepends=True)[:3])
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.csv", "tensorboard"}


def test_lines_are_printed_without_a_terminal(tmp_path, capsys):
    with make_writer(tmp_path) as writer:
        writer.say("hello")
        writer.progress(1, {"loss": 0.5})
        writer.write(2, {"train/loss": 0.123456, "train/psnr": 20.0}, eta=3725.4)
        writer.write(10, {"validation/psnr_y": 30.0})
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "hello",
        "step 2/10  train/loss 0.1235  train/psnr 20  eta 1:02:05",
        "step 10/10  validation/psnr_y 30",
    ]
    assert err == ""


def test_bar_is_shown_on_a_terminal(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    with make_writer(tmp_path, first_step=3) as writer:
        writer.say("hello")
        writer.progress(4, {"loss": 0.5})
        writer.progress(7, {})
    shown = terminal.getvalue()
    assert "hello" in shown and "7/10" in shown and "loss=0.5" in shown
    assert "step 4/10" not in shown


def test_other_processes_are_silent(tmp_path, capsys):
    with make_writer(tmp_path / "none", is_writer=False) as writer:
        writer.say("hello")
        writer.progress(1, {"loss": 0.5})
        writer.write(1, {"loss": 0.5})
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (90_000, "25:00:00")])
def test_duration(seconds, text):
    assert format_seconds(seconds) == text


def test_csv_holds_every_scalar_as_a_row(tmp_path):
    with make_writer(tmp_path) as writer:
        writer.write(2, {"train/loss": 0.1234567891234, "train/psnr": 20.0})
        assert (tmp_path / "metrics.csv").read_text().count("\n") == 3  # nothing waits in a buffer
        writer.write(4, {"validation/psnr_y": float("nan")})
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "step,name,value",
        "2,train/loss,0.123456789",
        "2,train/psnr,20",
        "4,validation/psnr_y,nan",
    ]


def test_resuming_drops_later_and_torn_rows(tmp_path):
    with make_writer(tmp_path) as writer:
        for step in (2, 4, 6):
            writer.write(step, {"train/loss": step / 10})
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("8,train/lo")  # a run that was killed while it wrote
    with make_writer(tmp_path, first_step=4) as writer:
        writer.write(6, {"train/loss": 0.7})
        writer.write(8, {"train/loss": 0.9})
        writer.rewind(6)
        writer.write(8, {"train/loss": 0.8})
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows == ["step,name,value"] + [
        f"{s},train/loss,{v}" for s, v in ((2, 0.2), (4, 0.4), (6, 0.7), (8, 0.8))
    ]


def test_pictures_are_recorded(tmp_path):
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    with make_writer(tmp_path) as writer:
        writer.write_image(5, "validation/0", picture)
    ((step, tag, image),) = read_scalars(tmp_path)
    assert (step, tag, image.height, image.width) == (5, "validation/0", 2, 3)
    np.testing.assert_array_equal(Image.open(io.BytesIO(image.encoded_image_string)), picture)


def test_bucket_gets_the_same_csv(monkeypatch):
    """A file system in memory stands for the bucket; etils reaches both through fsspec."""
    bucket = fsspec.filesystem("memory")
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **options: bucket)
    monkeypatch.setattr(tensorboardX, "SummaryWriter", lambda directory, **options: Mock(name=directory))
    path = epath.Path("gs://bucket/run/metrics.csv")
    try:
        with make_writer("gs://bucket/run") as writer:
            writer.write(2, {"train/loss": 0.5})
            writer.write(4, {"train/loss": 0.25})
        with make_writer("gs://bucket/run", first_step=2) as writer:
            writer.write(3, {"train/loss": 0.75})
        assert path.read_text().splitlines() == ["step,name,value", "2,train/loss,0.5", "3,train/loss,0.75"]
    finally:
        bucket.store.clear()
