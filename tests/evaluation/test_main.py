"""The command line: a whole evaluation, and what a wrong one prints before anything is computed."""

import json
import re

import jax
import pytest

from stvsr_jax.evaluation import __main__ as command
from stvsr_jax.evaluation import rendering


@pytest.fixture(autouse=True)
def keep_precision():
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


def run(folder, out, *more, protocol="zsm", model="bicubic_blend"):
    return command.main([str(folder), "--protocol", protocol, "--model", model, "--out", str(out), *more])


def test_evaluation_prints_and_keeps_its_table(clips_folder, tmp_path, capsys):
    assert run(clips_folder, tmp_path / "out", "--tof", "--reduce", "1.2") == 0
    out = tmp_path / "out"
    table = capsys.readouterr().out
    assert table == (out / "table.md").read_text()
    assert (
        table.startswith("### clips, protocol `zsm`") and "| bicubic_blend | " in table and "| tOF |" in table
    )
    record = json.loads((out / "record.json").read_text())
    assert record["settings"]["dataset"]["reduce"] == 1.2
    assert record["settings"]["device"]["matmul_precision"] == "highest"
    assert {item.name for item in out.iterdir()} == {
        "record.json",
        "frames.csv",
        "table.md",
        "clips",
        "timing.csv",
    }
    assert run(clips_folder, out, "--tof", "--reduce", "1.2") == 0  # all is there: the table again
    assert capsys.readouterr().out.splitlines()[:5] == table.splitlines()[:5]


def test_wrong_requests_end_with_one_line_before_anything_is_computed(
    clips_folder, tmp_path, capsys, write_clip, save_checkpoint, monkeypatch
):
    monkeypatch.setattr(rendering, "render_windows", None)  # whoever computes fails otherwise
    low = tmp_path / "low"
    write_clip(low / "a", 19, 7, 9)
    write_clip(low / "b", 9, 7, 9)
    zsm = str(save_checkpoint("zooming_slowmo"))
    cases = [
        (dict(folder=tmp_path / "none"), "there is no"),
        (dict(more=["--dataset", "vid4"]), "clips is not Vid4"),
        (dict(more=["--low", str(low)]), "clip b has ground truth of 40x28 .* low resolution of 9x7"),
        (dict(protocol="grid_t16_s4"), "clip b has 9 frames; protocol grid_t16_s4 needs 17"),
        (dict(model=str(tmp_path / "none")), "is neither one of bicubic_blend"),
        (dict(model=str(tmp_path)), "holds no checkpoint"),
        (dict(model=zsm, protocol="average"), "zooming_slowmo renders multiples of 1/2 only"),
        (dict(model=zsm, more=["--tile", "9"]), "tile=9 must be 0"),
        (dict(protocol="center", more=["--tof"]), "protocol center scores none"),
        (dict(out=tmp_path), "exists and is no evaluation"),
    ]
    for changes, message in cases:
        options = {"folder": clips_folder, "out": tmp_path / "out", "more": [], **changes}
        folder, out, more = (options.pop(name) for name in ("folder", "out", "more"))
        assert run(folder, out, *more, **options) == 2, message
        error = capsys.readouterr().err
        assert error.startswith("error: ") and len(error.splitlines()) == 1
        assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_coded_low_resolution_is_asked_for_and_named(clips_folder, tmp_path, capsys):
    assert run(clips_folder, tmp_path / "out", "--degrade", "h264:33") == 0
    assert capsys.readouterr().out.startswith("### clips, h264:33, protocol `zsm`")
    assert run(clips_folder, tmp_path / "other", "--degrade", "mpeg2:5") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: degrade='mpeg2:5' must be h264:CRF with a CRF from 0 to 51, like h264:28"
    assert not (tmp_path / "other").exists()


def test_flags_that_do_not_exist_are_refused(clips_folder, tmp_path, capsys):
    assert run(clips_folder, tmp_path / "out", protocol="vid4") == 2
    assert "invalid choice: 'vid4'" in capsys.readouterr().err


def test_error_on_the_way_is_another_exit_code(clips_folder, tmp_path, capsys):
    (clips_folder / "b" / "003.png").write_bytes((clips_folder / "b" / "003.png").read_bytes()[:400])
    assert run(clips_folder, tmp_path / "out") == 1
    assert "003.png cannot be read" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out" / "clips").iterdir()] == ["00000_a.csv"]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("model", "protocol"),
    [
        ("zooming_slowmo", "zsm"),
        ("zooming_slowmo", "v3_center"),
        ("videoinr", "full"),
        ("videoinr", "grid_t8_s6"),
    ],
)
def test_real_networks_made_small(clips_folder, tmp_path, capsys, save_checkpoint, model, protocol):
    folder = save_checkpoint(model)
    assert run(clips_folder, tmp_path / "0", protocol=protocol, model=str(folder)) == 0
    assert f"| {model} " in capsys.readouterr().out
    assert run(clips_folder, tmp_path / "1", protocol=protocol, model=str(folder)) == 0
    texts = [(tmp_path / name / "frames.csv").read_text() for name in "01"]
    assert texts[0] == texts[1] and len(texts[0].splitlines()) > 2
