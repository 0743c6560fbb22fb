"""CSV files and averages, by hand."""

import math

import numpy as np
import pytest

from stvsr_jax.evaluation import results
from stvsr_jax.evaluation.results import FrameScore


def row(clip, frame, psnr, *, is_given=True, tof=None):
    scores = {"psnr_y": psnr, "psnr_rgb": psnr - 1} | ({} if tof is None else {"tof": tof})
    return FrameScore(clip, frame, 0, "1/2", is_given, scores, f"{frame:016x}")


ROWS = [
    row("a", 0, 30.0),
    row("a", 1, 20.0, is_given=False, tof=3.0),
    row("a", 2, 31.0, tof=1.0),
    row("b", 0, 40.0),
]


def test_clips_count_the_same_however_long():
    assert results.average(ROWS, "clip") == {"psnr_y": 33.5, "psnr_rgb": 32.5, "tof": 2.0}


def test_windows_count_the_same_whatever_their_clip():
    assert results.average(ROWS, "window") == {"psnr_y": 30.25, "psnr_rgb": 29.25, "tof": 2.0}


def test_csv_keeps_the_rows(tmp_path):
    results.write_csv(tmp_path / "x.csv", ROWS, ["psnr_y", "psnr_rgb", "tof"])
    assert results.read_csv(tmp_path / "x.csv") == ROWS
    lines = (tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == "clip,frame,window,time,given,psnr_y,psnr_rgb,tof,target"
    assert lines[1] == "a,0,0,1/2,yes,30.000000,29.000000,,0000000000000000"
    assert [file.name for file in tmp_path.iterdir()] == ["x.csv"]


def test_identical_frames_are_counted_and_make_the_average_infinite(tmp_path):
    rows = [*ROWS, row("b", 1, math.inf)]
    results.write_csv(tmp_path / "x.csv", rows, ["psnr_y", "psnr_rgb", "tof"])
    rows = results.read_csv(tmp_path / "x.csv")
    summary = results.summarize(rows, "clip")
    assert summary["identical_frames"] == 1 and summary["frames"] == 5
    assert summary["scores"]["psnr_y"] == summary["clips"]["b"]["psnr_y"] == math.inf
    assert summary["clips"]["a"]["psnr_y"] == 27.0


def test_summary_tells_given_from_interpolated_frames():
    summary = results.summarize(ROWS, "clip")
    assert summary["given"]["psnr_y"] == (30.5 + 40) / 2
    assert summary["interpolated"] == {"psnr_y": 20.0, "psnr_rgb": 19.0, "tof": 3.0}
    assert results.summarize(ROWS[:1], "clip")["interpolated"] == {}


def test_ground_truth_is_known_by_its_pixels():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    digest = results.image_digest(image)
    assert len(digest) == 16 and digest == results.image_digest(image.copy())
    assert digest != results.image_digest(image.reshape(4, 2, 3))
    other = [*ROWS[:-1], FrameScore("b", 0, 0, "1/2", True, ROWS[-1].scores, digest)]
    digests = [results.summarize(rows, "clip")["target_digest"] for rows in (ROWS, ROWS, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("clip", "stem"), [("walk", "00003_walk"), ("00001/0625", "00003_00001_0625")])
def test_files_of_a_clip(clip, stem):
    assert results.file_stem(3, clip) == stem


@pytest.mark.parametrize(
    "content", [b"", b"x,y\n1,2\n", b"\xff\xfe\x00", b"clip,frame,window,time,given,psnr_y,target\na,x"]
)
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "frames.csv").write_bytes(content)
    with pytest.raises(ValueError, match="frames.csv is damaged: "):
        results.read_csv(tmp_path / "frames.csv")
