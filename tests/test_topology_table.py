"""The tables of docs/tpu.md are those of the records, within their budgets, and the records are of this code."""

import dataclasses
import functools
import json
import pathlib
import types
from concurrent.futures.process import BrokenProcessPool

import jax
import pytest
from jax.experimental import pallas as pl

from stvsr_jax import topology_benchmark, topology_table
from stvsr_jax.runtime import topology
from stvsr_jax.topology_table import PROGRAMS, Program

DOCS = pathlib.Path(__file__).parents[1] / "docs"
SECONDS = 240  # of the compiler on all cores, beside other work

needs_libtpu = pytest.mark.skipif(
    not topology.is_available(), reason="libtpu is not installed: pip install 'stvsr-jax[tpu-compile]'"
)


@functools.cache
def read_records():
    return json.loads((DOCS / "tpu.json").read_text("utf-8"))


def name_of(record):
    return str(topology_table._program_of(record))


def test_the_page_has_the_tables_of_the_records():
    page = (DOCS / "tpu.md").read_text("utf-8")
    assert topology_table.fill(page, topology_table.tables(read_records())) == page
    recorded = [topology_table._program_of(record) for record in read_records()]
    assert recorded == [program for program in PROGRAMS if program in recorded]


@pytest.mark.parametrize("record", read_records(), ids=name_of)
def test_programs_keep_to_their_budgets(record):
    program = topology_table._program_of(record)
    assert record["memory_gigabytes"] < (6 if program.job == "inference" else 12)
    assert min(record["compile_seconds"], record["compile_cpu_seconds"]) < SECONDS
    counts = {kind: moved["count"] for kind, moved in record["collectives"].items()}
    if program.job == "inference":
        assert not counts
    elif program.fsdp == 1:
        assert set(counts) == {"all-reduce"} and counts["all-reduce"] <= 2
    else:  # of 244 and 262 parameters
        assert set(counts) == {"all-gather", "reduce-scatter", "all-reduce"}
        assert counts["all-gather"] < 130 and counts["all-reduce"] <= 4
        assert record["collectives"]["all-gather"]["megabytes"] < 50


@needs_libtpu
@pytest.mark.heavy
@pytest.mark.parametrize("record", read_records(), ids=name_of)
def test_the_records_are_of_this_code(record):
    if record["jax"] != jax.__version__:
        pytest.skip(f"compiled with jax {record['jax']}")
    assert topology_table.make_record(topology_table._program_of(record), record, compiles=False) == record


def record_of(program, **others):
    numbers = dict(memory_gigabytes=1.25, hbm_gigabytes=2.0, hbm_bound_milliseconds=3.0, collectives={})
    versions = dict(
        date="2026-01-02",
        jax="1",
        libtpu="2",
        matrix_bound_milliseconds=4.0,
        compile_seconds=5.0,
        compile_cpu_seconds=6.0,
    )
    return {**vars(program), **numbers, **versions, **others}


def test_tables_have_a_row_for_each_program():
    moved = {"all-gather": {"count": 7, "megabytes": 8.4}, "all-reduce": {"count": 1, "megabytes": 9.0}}
    records = [
        record_of(Program("videoinr", "inference", "v5e:2x2")),
        record_of(Program("videoinr", "training step", "v4:2x2x1", 4), collectives=moved, jax="3"),
    ]
    tables = topology_table.tables(records)
    row = "| VideoINR | v5e:2x2 | 1.25 GB | 2.0 GB | 3 ms | 4 ms | 5 s | 6 s |"
    assert tables["inference"].splitlines()[2:] == [row]
    assert tables["training"].endswith("6 s | 7 all-gather of 8 MB, 1 all-reduce of 9 MB |")
    assert "| VideoINR, `--fsdp 4` | v4:2x2x1 | 1.2 GB" in tables["training"]
    assert "jax 1 and libtpu 2, and on 2026-01-02 with jax 3 and libtpu 2" in tables["versions"]
    page = "a\n<!-- x -->\n{}<!-- end -->\nb\n<!-- y -->\nkept\n<!-- end -->\n"
    for old in ("", "old\n", "\nold\n\n"):
        filled = topology_table.fill(page.format(old), {"x": "new\nlines"})
        assert filled == page.format("\nnew\nlines\n\n")
    with pytest.raises(ValueError, match="<!-- z -->"):
        topology_table.fill(page, {"z": ""})


def test_only_other_programs_are_compiled(monkeypatch):
    def make_job(*args, **kwargs):
        return topology_benchmark.Job(jax.jit(lambda x: factor * x), (shape,), "1")

    def compile_lowered(lowered, chip):
        compiled.append(chip)
        return types.SimpleNamespace()

    factor, shape, compiled = 2, jax.ShapeDtypeStruct((4,), "float32"), []
    monkeypatch.setattr(topology_benchmark, "make_job", make_job)
    monkeypatch.setattr(topology_benchmark, "describe", lambda job, report, chips: {"shapes": job.shapes})
    monkeypatch.setattr(topology, "compile_lowered", compile_lowered)
    monkeypatch.setattr(topology, "describe_devices", lambda chips: [None] * 4)
    monkeypatch.setattr(topology_table.importlib.metadata, "version", lambda package: "7")
    program = Program("videoinr", "training step", "v5e:2x2")
    record = topology_table.make_record(program, None, compiles=True)
    assert record["libtpu"] == "7" and record["shapes"] == "1" and len(compiled) == 1
    assert topology_table.make_record(program, record, compiles=True) is record and len(compiled) == 1
    factor = 3
    assert topology_table.make_record(program, record, compiles=False) is None and len(compiled) == 1
    assert topology_table.make_record(program, record, compiles=True)["program"] != record["program"]
    assert compiled == [topology.CHIPS["v5e"]] * 2
    record = topology_table.make_record(program, None, compiles=True)
    other = dataclasses.replace(topology.CHIPS["v5e"], compiler_options=(("a", "1"),))
    monkeypatch.setitem(topology.CHIPS, "v5e", other)
    assert topology_table.make_record(program, record, compiles=False) is None


def test_failed_programs_are_named_and_lose_their_row(monkeypatch, tmp_path, capsys):
    programs = [Program("videoinr", "inference", chips) for chips in ("v4:2x2x1", "v5e:2x2", "v6e:2x2")]
    kept, failing, changed = (record_of(program) for program in programs)
    answers = {programs[0]: kept, programs[2]: changed | {"hbm_gigabytes": 9.0}}

    def in_process(function, program, known, compiles):
        if program == programs[1]:
            raise BrokenProcessPool("it ended")
        return answers[program] if compiles or answers[program] == known else None

    monkeypatch.setattr(topology_table, "PROGRAMS", programs)
    monkeypatch.setattr(topology_table, "_in_process", in_process)
    records, page = tmp_path / "a.json", tmp_path / "a.md"
    records.write_text(json.dumps([kept, failing, changed]))
    page.write_text(
        "".join(f"<!-- {name} -->\n<!-- end -->\n" for name in ("inference", "training", "versions"))
    )
    assert topology_table.main([str(records), str(page), "--check"]) == 1
    assert json.loads(records.read_text()) == [kept, failing, changed]
    assert "v6e:2x2, fsdp=1: of other code" in capsys.readouterr().out
    assert topology_table.main([str(records), str(page)]) == 1
    assert json.loads(records.read_text()) == [kept, answers[programs[2]]]
    assert "v5e:2x2, fsdp=1: the compiler failed: it ended" in capsys.readouterr().err
    assert "| 9.0 GB |" in page.read_text()
    monkeypatch.setattr(topology_table, "PROGRAMS", [programs[0], programs[2]])
    assert topology_table.main([str(records), str(page), "--check"]) == 0


def test_a_program_is_the_same_from_other_lines_of_the_source():
    def lower(line):
        names = {}
        exec(compile("\n" * line + "def kernel(x, y):\n    y[...] = 2 * x[...]\n", "a.py", "exec"), names)
        shape = jax.ShapeDtypeStruct((8, 128), "float32")
        function = jax.jit(lambda x: pl.pallas_call(names["kernel"], out_shape=shape, name="kernel")(x))
        return function.trace(shape).lower(lowering_platforms=("tpu",)).as_text()

    assert lower(3) != lower(7)
    with topology_table._without_locations():
        assert lower(3) == lower(7)
    assert lower(3) != lower(7)
