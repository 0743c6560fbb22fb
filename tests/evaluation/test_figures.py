"""Figures of two small evaluations."""

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.evaluation import datasets, figures, methods, results, runner
from stvsr_jax.evaluation.protocols import PROTOCOLS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return two evaluations with saved frames, one without and one of another protocol: {name: folder}."""
    root = tmp_path_factory.mktemp("figures")
    rng = np.random.default_rng(0)
    (root / "clips" / "one").mkdir(parents=True)
    for n in range(9):
        frame = rng.integers(0, 256, (84, 96, 3)).astype(np.uint8)
        frame[:40, :50] = 10 * n  # only the rest is hard
        Image.fromarray(frame).save(root / "clips" / "one" / f"{n}.png")

    def run(name, model, protocol="zsm", **options):
        protocol = PROTOCOLS[protocol]
        clips = datasets.open_dataset("folder", root / "clips", protocol)
        job = runner.Job(methods.open_method(model), "folder", "clips", "", None, clips, protocol, **options)
        runner.evaluate(job, root / name)
        return root / name

    return {
        "blend": run("blend", "bicubic_blend", saves_frames=True),
        "repeat": run("repeat", "bicubic_repeat", saves_frames=True),
        "plain": run("plain", "bicubic_repeat"),
        "full": run("full", "bicubic_blend", "full"),
    }


def draw(out, runs, *names, more=()):
    return figures.main([*(str(runs[name]) for name in names), "--out", str(out), *more])


def test_all_figures_are_drawn(tmp_path, runs):
    assert draw(tmp_path, runs, "blend", "repeat") == 0
    assert {file.name for file in tmp_path.iterdir()} == {
        "psnr_over_time.png",
        "quality_and_speed.png",
        "crops.png",
    }
    for file in tmp_path.iterdir():
        pixels = np.asarray(Image.open(file).convert("L"))
        assert pixels.std() > 5  # something is drawn


def test_psnr_over_time_has_a_line_per_run_and_its_values(tmp_path, runs, monkeypatch):
    made = []
    new_figure = figures._new_figure
    monkeypatch.setattr(figures, "_new_figure", lambda *size: made.append(new_figure(*size)) or made[-1])
    figures.draw_psnr_over_time([runs["blend"], runs["repeat"]], "one", tmp_path / "x.png")
    lines = made[0][1].get_lines()
    rows = results.read_csv(runs["blend"] / "frames.csv")
    np.testing.assert_array_equal(lines[0].get_xdata(), range(7))
    np.testing.assert_array_equal(lines[0].get_ydata(), [row.scores["psnr_y"] for row in rows])
    np.testing.assert_array_equal(lines[1].get_xdata(), [0, 2, 4, 6])  # the given ones
    assert [text.get_text() for text in made[0][1].get_legend().get_texts()] == [
        "bicubic_blend",
        "bicubic_repeat",
    ]


def test_crops_show_truth_predictions_and_differences(tmp_path, runs):
    figures.draw_crops([runs["blend"], runs["repeat"]], "one", 3, tmp_path / "x.png", crop=(10, 20, 64, 64))
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    assert picture.shape == (256 + 4 + 256, 3 * 256 + 2 * 4, 3)
    target, prediction = (
        np.asarray(Image.open(runs["repeat"] / folder / "00000_one" / "00003.png"))[10:74, 20:84]
        for folder in ("targets", "predictions")
    )
    last = picture[:256, 2 * 260 :]
    np.testing.assert_array_equal(last[130::4, 2::4], prediction[32:])  # below the label
    np.testing.assert_array_equal(picture[130:256:4, 2:256:4], target[32:])
    difference = np.abs(prediction.astype(float) - target).mean(-1)[32:] * 2
    below = picture[260 + 130 :: 4, 2 * 260 + 2 :: 4]
    np.testing.assert_allclose(below[..., 0], np.minimum(difference, 255), atol=1)
    assert (below[..., 0] == below[..., 2]).all()


def test_worst_crop_and_frame(runs):
    target = np.zeros((100, 120, 3), np.uint8)
    prediction = target.copy()
    prediction[30:90, 40:100] = 50
    top, left, height, width = figures.find_worst_crop(prediction, target)
    assert (height, width) == (64, 64) and 26 <= top <= 30 and 36 <= left <= 40
    assert figures.find_worst_crop(prediction[:20, :50], target[:20, :50])[2:] == (20, 20)
    rows = results.read_csv(runs["blend"] / "frames.csv")
    worst = min((row.scores["psnr_y"], row.frame) for row in rows if row.frame % 2)
    assert figures.find_worst_frame(runs["blend"], "one") == worst[1]


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["blend", "full"], [], "the runs differ in data set, protocol or ground truth"),
        (["blend"], ["--clip", "two"], "clip 'two' is not one of one"),
        (["blend"], ["--frame", "8"], "holds no picture of frame 8"),
        (["blend"], ["--crop", "50", "0", "64", "64"], "lies outside of the frame of 84x96"),
        (["plain"], ["--frame", "3"], "made with --save_frames"),
    ],
)
def test_wrong_requests_end_with_one_line(tmp_path, runs, capsys, names, more, message):
    assert draw(tmp_path, runs, *names, more=more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1


def test_runs_without_saved_frames_have_no_crops(tmp_path, runs):
    assert draw(tmp_path, runs, "plain") == 0
    assert not (tmp_path / "crops.png").exists() and (tmp_path / "psnr_over_time.png").exists()
