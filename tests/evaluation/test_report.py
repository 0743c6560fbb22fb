"""Tables: what may stand in the same one, and beside which published figures."""

import copy
import json

import pytest

from stvsr_jax.evaluation import report


@pytest.fixture
def record():
    """Return the record of an invented evaluation on Vid4."""
    return {
        "settings": {
            "method": {"name": "bicubic_blend"},
            "dataset": {
                "name": "vid4",
                "layout": "vid4",
                "low_resolution": "MATLAB bicubic 1/4, 8-bit",
                "reduce": 1.0,
                "clips": {"city": [34, 576, 704]},
            },
            "protocol": {"name": "zsm", "rounded": True, "average": "clip", "space": 4},
            "device": {"kind": "cpu"},
        },
        "status": "complete",
        "scores": {"psnr_y": 21.234, "ssim_y": 0.56789, "psnr_rgb": 19.9, "ssim_rgb": 0.5},
        "given": {"psnr_y": 22.0},
        "interpolated": {"psnr_y": 20.0},
        "frames": 31,
        "identical_frames": 0,
        "target_digest": "ab" * 32,
        "seconds_per_frame": 0.0123,
        "date": "2030-01-02T03:04:05+00:00",
    }


def change(record, path, value):
    changed = copy.deepcopy(record)
    *parents, last = path.split(".")
    part = changed
    for name in parents:
        part = part[name]
    part[last] = value
    return changed


def tables(*records):
    """Return the rows of each table as lists of cells."""
    found = []
    for line in report.make_tables(records).splitlines():
        if line.startswith("### "):
            found.append([line])
        elif line.startswith("| "):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_records_of_the_middle_frame_are_beside_no_published_center(record):
    record["settings"]["dataset"] |= {"name": "gopro", "layout": "gopro"}
    record["settings"]["protocol"]["name"] = "center"
    assert "VideoINR" not in report.make_tables([record])
    record["settings"]["protocol"]["scored"] = "0 4"
    assert "| VideoINR | 30.26 | 0.8792 |" in report.make_tables([record])


@pytest.mark.parametrize("key", ["given", "date", "seconds_per_frame", "identical_frames", "settings"])
def test_incomplete_records_are_named(tmp_path, capsys, record, key):
    del record[key]
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert report.main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"record.json is damaged or of something else: KeyError: '{key}'" in line


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "complete"}', '"x"'])
def test_damaged_records_are_named(tmp_path, capsys, text):
    (tmp_path / "record.json").write_text(text)
    assert report.main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "record.json") in line


def test_measured_beside_published(record):
    ((title, header, _, measured, published),) = tables(record)
    assert title == "### vid4, protocol `zsm`"
    assert header[:5] == ["method", "PSNR-Y", "SSIM-Y", "PSNR-RGB", "SSIM-RGB"]
    assert measured == [
        *("bicubic_blend", "21.23", "0.5679", "19.90", "0.5000", "22.00", "20.00", "12.3"),
        "measured, cpu, 2030-01-02",
    ]
    assert published[:5] == ["Zooming Slow-Mo (released weights)", "26.38", "0.7977", "", ""]
    assert "Zooming-Slow-Mo-CVPR-2020" in published[-1]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("settings.dataset.reduce", 2.0),
        ("settings.dataset.low_resolution", "given/"),
        ("settings.dataset.layout", "folder"),
        ("settings.protocol.name", "full"),
    ],
)
def test_published_figures_only_for_the_same_measurement(record, path, value):
    (table,) = tables(change(record, path, value))
    assert [row[0] for row in table[3:]] == ["bicubic_blend"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("settings.dataset.reduce", 2.0),
        ("settings.dataset.low_resolution", "given/"),
        ("settings.dataset.name", "folder"),
        ("settings.protocol.name", "full"),
        ("settings.protocol.rounded", False),
        ("target_digest", "cd" * 32),
    ],
)
def test_what_differs_is_never_in_one_table(record, path, value):
    assert len(tables(record, change(record, path, value))) == 2


def test_methods_share_a_table(record):
    method = {"name": "videoinr", "digest": "0123456789abcdef", "dtype": "bfloat16", "tile": 64}
    (table,) = tables(record, change(record, "settings.method", method))
    assert [row[0] for row in table[3:]] == [
        "bicubic_blend",
        "videoinr 01234567, bfloat16, tiles of 64",
        "Zooming Slow-Mo (released weights)",
    ]


def test_weights_that_ship_are_called_by_their_name(record):
    method = {"name": "zooming_slowmo", "digest": "0123456789", "dtype": "float32", "tile": 0}
    assert report.label(change(record, "settings.method", method)) == "zooming_slowmo 01234567"
    assert report.label(change(record, "settings.method", method | {"set": "video"})) == "video 01234567"


def test_identical_frames_and_infinite_averages_are_told(record):
    record = change(change(record, "identical_frames", 31), "scores.psnr_y", "inf")
    text = report.make_tables([record])
    assert "| bicubic_blend | inf |" in text
    assert "whose PSNR is infinite: bicubic_blend: 31." in text


def test_temporal_consistency_has_a_column_if_measured(record):
    (table,) = tables(record, change(record, "scores.tof", 1.23456))
    assert table[1][5] == "tOF"
    assert [row[5] for row in table[3:]] == ["", "1.235", ""]


def test_overview_has_a_line_for_each_protocol(record, tmp_path, capsys):
    full = change(record, "settings.protocol.name", "full")
    records = [record, change(record, "settings.method.name", "bicubic_repeat"), change(full, "frames", 34)]
    for number, one in enumerate(records):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "record.json").write_text(json.dumps(one))
    assert report.main([*(str(tmp_path / str(n)) for n in range(3)), "--overview"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| data | protocol | scored frames | bicubic_blend | bicubic_repeat |",
        "| --- | --- | --- | --- | --- |",
        "| vid4 | `zsm` | 31 | 21.23 / 0.5679 | 21.23 / 0.5679 |",
        "| vid4 | `full` | 34 | 21.23 / 0.5679 |  |",
    ]


def test_published_table_is_printed_at_once(capsys):
    assert report.main(["--published"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(report.published.SCORES)
    assert "| VideoINR | gopro | average | 29.41 | 0.8669 | Chen et al., CVPR 2022, Table 1 |" in lines[8]


def test_wrong_folders_end_with_one_line(tmp_path, capsys, record):
    assert report.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} holds no evaluation")
    (tmp_path / "record.json").write_text(json.dumps({**record, "status": "running"}))
    assert report.main([str(tmp_path)]) == 2
    assert "is not complete; run its command again" in capsys.readouterr().err
