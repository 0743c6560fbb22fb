"""Coded low resolution is one video of the given frames, the same for every method, and never called clean."""

import numpy as np
import pytest

from stvsr_jax import bicubic
from stvsr_jax.data import compression
from stvsr_jax.evaluation import coded, datasets, report, runner
from stvsr_jax.evaluation.methods import open_method
from stvsr_jax.evaluation.protocols import PROTOCOLS, Window, split_window


def low_of(clip):
    """Return all clean low-resolution frames of an evaluation clip, uint8."""
    frames = clip.source.read(range(clip.num_frames))[:, : clip.size[0], : clip.size[1]]
    return bicubic.to_uint8(bicubic.imresize(frames, scale=1 / clip.protocol.space))


def open_both(folder, protocol, crf, **options):
    clean = datasets.open_dataset("folder", folder, PROTOCOLS[protocol], **options)
    return clean, datasets.open_dataset(
        "folder", folder, PROTOCOLS[protocol], coding=compression.H264(crf), **options
    )


@pytest.mark.parametrize("protocol", ["zsm", "average"])
def test_given_frames_are_those_of_a_video_of_all_of_them(clips_folder, protocol):
    (a, _), (degraded, _) = open_both(clips_folder, protocol, 30)
    stride = {"zsm": 2, "average": 8}[protocol]
    video = np.stack(list(compression.code(low_of(a)[::stride], compression.H264(30))))
    for window in a.protocol.plan(a.num_frames):
        frames, target = degraded.read(window)
        expected = video[[index // stride for index in window.inputs]]
        if protocol == "zsm":
            np.testing.assert_array_equal(frames, expected)
        else:
            np.testing.assert_allclose(frames, np.float32(expected) / np.float32(255), rtol=1e-6)
        np.testing.assert_array_equal(target, a.read(window)[1])


def test_last_window_of_full_is_of_a_video_of_its_own_frames(tmp_path, write_clip):
    write_clip(tmp_path / "c" / "clip", 12, 32, 40)
    (clean,), (degraded,) = open_both(tmp_path / "c", "full", 26)
    *_, window = clean.protocol.plan(12)
    assert window.inputs == (5, 7, 9, 11)
    video = np.stack(list(compression.code(low_of(clean)[1::2], compression.H264(26))))
    np.testing.assert_array_equal(degraded.read(window)[0], video[2:])


def test_pieces_of_a_window_are_its_frames(clips_folder):
    _, (clip, _) = open_both(clips_folder, "zsm", 33)
    window = clip.protocol.plan(clip.num_frames)[1]
    whole = clip.read(window)[0]
    for n, piece in enumerate(split_window(window, 2)):
        np.testing.assert_array_equal(clip.read(piece)[0], whole[n : n + 2])


def test_given_low_resolution_is_coded_too(tmp_path, clips_folder, write_clip):
    write_clip(tmp_path / "low" / "a", 19, 7, 9)
    write_clip(tmp_path / "low" / "b", 9, 7, 10)
    (clean, _), (degraded, _) = open_both(clips_folder, "zsm", 28, given=tmp_path / "low")
    video = np.stack(list(compression.code(clean.given.read(range(0, 19, 2)), compression.H264(28))))
    np.testing.assert_array_equal(degraded.read(Window((12, 14, 16, 18), (13,)))[0], video[6:])


def test_few_videos_are_held_and_each_is_coded_once():
    cache, made = coded.VideoCache(), []

    def make(key):
        return cache.get((key,), lambda: made.append(key) or np.full(1, key))

    for key in (1, 1, 2, 3, 4, 1, 5, 1, 2):
        assert make(key) == key
    assert made == [1, 2, 3, 4, 5, 2]


def test_unevenly_spaced_frames_are_refused(clips_folder):
    _, (clip, _) = open_both(clips_folder, "zsm", 28)
    with pytest.raises(ValueError, match=r"frames \[0, 2, 3\] of a are not evenly spaced"):
        clip.given.read((0, 2, 3))


@pytest.mark.parametrize(
    "text", ["h264", "h264:", "h264:x", "h264:52", "h264:-1", "h264:nan", "av1:30", "28", ""]
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="must be h264:CRF with a CRF from 0 to 51"):
        coded.parse_coding(text)


def test_text_and_settings():
    assert coded.parse_coding("h264:28") == compression.H264(28, "medium")
    assert coded.name_coding(coded.parse_coding("h264:28.50")) == "h264:28.5"


def evaluate(folder, out, model="bicubic_blend", coding=None):
    protocol = PROTOCOLS["zsm"]
    clips = datasets.open_dataset("folder", folder, protocol, coding=coding)
    method = open_method(model)
    return runner.evaluate(
        runner.Job(method, "folder", "clips", str(folder), None, clips, protocol, coding=coding), out
    )


def test_scores_fall_with_crf_and_tables_keep_them_apart(clips_folder, tmp_path):
    records = [evaluate(clips_folder, tmp_path / "clean")]
    for crf in (20, 30, 40):
        records.append(evaluate(clips_folder, tmp_path / str(crf), coding=compression.H264(crf)))
    again = evaluate(clips_folder, tmp_path / "repeat", "bicubic_repeat", coding=compression.H264(30))
    scores = [record["scores"]["psnr_y"] for record in records]
    assert scores[0] > scores[1] > scores[2] > scores[3], scores
    text = report.make_tables([*records, again])
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == [
        "### clips, protocol `zsm`",
        *(f"### clips, h264:{crf}, protocol `zsm`" for crf in (20, 30, 40)),
    ]
    assert (
        "low resolution: x264 (crf 30, medium, 4:2:0, given frames as one video) of MATLAB bicubic 1/4"
        in text
    )
    overview = report.make_overview([*records, again]).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in overview] == [
        "clips",
        "clips, h264:20",
        "clips, h264:30",
        "clips, h264:40",
    ]
    assert "av" in records[1]["settings"]["versions"] and "av" not in records[0]["settings"]["versions"]
    with pytest.raises(ValueError, match="holds another evaluation"):
        evaluate(clips_folder, tmp_path / "clean", coding=compression.H264(20))


def test_published_figures_are_beside_no_coded_input():
    # Tables put them beside low resolution whose description begins with this.
    coding = compression.H264(23)
    job = runner.Job(
        open_method("bicubic_blend"), "vid4", "vid4", "", None, [], PROTOCOLS["zsm"], coding=coding
    )
    assert not job.low_resolution.startswith("MATLAB bicubic") and job.title == "vid4, h264:23"
