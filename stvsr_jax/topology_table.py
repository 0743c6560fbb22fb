"""The tables of docs/tpu.md: the networks' programs, compiled for TPUs that are not here.

    python -m stvsr_jax.topology_table docs/tpu.json docs/tpu.md

compiles what has changed since the records were written, one program after the other, and writes both files. `--check`
compiles nothing: it names the programs whose record is of other code, and ends with 1 if there are any.
"""

import argparse
import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import multiprocessing
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from stvsr_jax import command_line, models, topology_benchmark
from stvsr_jax.runtime import topology

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """A row of a table.

    Attributes:
      model: name of the network.
      job: "inference", on one chip, or "training step", on all.
      topology: kind of chip and shape.
      fsdp: chips that share one copy of the state.
    """

    model: str
    job: str
    topology: str
    fsdp: int = 1

    def __str__(self) -> str:
        return f"{self.model}, {self.job}, {self.topology}, fsdp={self.fsdp}"


PROGRAMS = (
    *(
        Program(model, "inference", chips)
        for model in models.MODELS
        for chips in ("v4:2x2x1", "v5e:2x2", "v6e:2x2")
    ),
    *(
        Program(model, "training step", chips, fsdp)
        for model in models.MODELS
        for chips, fsdp in (
            ("v4:2x2x1", 1),
            ("v5e:2x2", 1),
            ("v5e:2x2", 4),
            ("v5e:4x4", 1),
            ("v5e:4x4", 4),
            ("v5p:2x2x2", 1),
            ("v6e:2x2", 1),
        )
    ),
)


def make_record(program: Program, known: Record | None, compiles: bool) -> Record | None:
    """Returns the record of a program.

    Args:
      program: what is traced.
      known: an earlier record, which is returned if it is of the same program, jax, libtpu and options.
      compiles: whether to compile another program; otherwise None is returned.
    """
    is_training = program.job == "training step"
    devices = topology.describe_devices(program.topology)
    job = topology_benchmark.make_job(
        program.model, devices if is_training else devices[:1], is_training=is_training, fsdp=program.fsdp
    )
    with _without_locations():
        lowered = job.function.trace(*job.arguments).lower(lowering_platforms=("tpu",))
    made_of = {
        **dataclasses.asdict(program),
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu"),
        "compiler_options": dict(topology.chip_of(program.topology).compiler_options),
        "program": hashlib.sha256(lowered.as_text().encode()).hexdigest()[:16],
    }
    if known and made_of.items() <= known.items():
        return known
    if not compiles:
        return None
    report = topology.compile_lowered(lowered, topology.chip_of(program.topology))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**made_of, "date": date, **topology_benchmark.describe(job, report, program.topology)}


@contextlib.contextmanager
def _without_locations():
    """Lowers what is inside to the same text whatever the lines of the source: kernels hold them."""
    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def tables(records: Iterable[Record]) -> dict[str, str]:
    """Returns the name of each table and its Markdown."""
    records = list(records)
    return {
        "inference": _table(records, "inference"),
        "training": _table(records, "training step"),
        "versions": _versions(records),
    }


def _table(records, job):
    collectives = job != "inference"
    head = [
        "program",
        "chips",
        "memory",
        "HBM traffic",
        "its bound",
        "products' bound",
        "compiled in",
        "CPU time",
    ]
    lines = [head + ["collectives of a step"] * collectives, ["---"] * (len(head) + collectives)]
    for r in (r for r in records if r["job"] == job):
        title = models.contract_of(r["model"]).title
        line = [
            title if r["fsdp"] == 1 else f"{title}, `--fsdp {r['fsdp']}`",
            r["topology"],
            f"{r['memory_gigabytes']:.{1 if collectives else 2}f} GB",
            f"{r['hbm_gigabytes']:.1f} GB",
            f"{r['hbm_bound_milliseconds']:.0f} ms",
            f"{r['matrix_bound_milliseconds']:.0f} ms",
            f"{r['compile_seconds']:.0f} s",
            f"{r['compile_cpu_seconds']:.0f} s",
        ]
        moved = sorted(r["collectives"].items())
        text = ", ".join(f"{x['count']} {kind} of {x['megabytes']:.0f} MB" for kind, x in moved)
        lines.append(line + [text] * collectives)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _versions(records):
    made = sorted({(r["date"], r["jax"], r["libtpu"]) for r in records})
    parts = [f"{date} with jax {version} and libtpu {libtpu}" for date, version, libtpu in made]
    return f"Compiled on {', and on '.join(parts)}, bfloat16."


def fill(page: str, contents: dict[str, str]) -> str:
    """Returns a page with each text between `<!-- NAME -->` and `<!-- end -->` replaced.

    Raises:
      ValueError: the page has no place of that name, or several.
    """
    for name, text in contents.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        if len(place.findall(page)) != 1:
            raise ValueError(f"the page must have one place <!-- {name} --> ... <!-- end -->")
        page = place.sub(lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", page)
    return page


def run(args: argparse.Namespace) -> int:
    """Renews the records and the page; returns the exit status."""
    known = json.loads(args.records.read_text("utf-8")) if args.records.exists() else []
    by_program = {_program_of(record): record for record in known}
    others = []
    for program in PROGRAMS:
        earlier = by_program.get(program)
        try:
            record = _in_process(make_record, program, earlier, not args.check)
        except (jax.errors.JaxRuntimeError, concurrent.futures.process.BrokenProcessPool) as error:
            print(f"{program}: the compiler failed: {error}", file=sys.stderr, flush=True)
            record = None
        if record and record == earlier:
            continue
        others.append(program)
        if args.check:
            print(f"{program}: {'of other code' if earlier else 'not compiled'}", flush=True)
            continue
        by_program.pop(program, None)
        if record:
            print(f"{program}: compiled", flush=True)
            by_program[program] = record
        _write(args, [by_program[p] for p in PROGRAMS if p in by_program])
    return 1 if any(args.check or p not in by_program for p in others) else 0


def _in_process(function, *arguments):
    """Calls in a process of its own: libtpu ends the process on some errors, and keeps memory."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _program_of(record):
    return Program(**{field.name: record[field.name] for field in dataclasses.fields(Program)})


def _write(args, records):
    args.records.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    page = fill(args.page.read_text("utf-8"), tables(records))
    args.page.write_text(page, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = command_line.new_parser("python -m stvsr_jax.topology_table", __doc__.splitlines()[0])
    parser.add_argument("records", type=pathlib.Path, help="JSON: what is known of each program")
    parser.add_argument("page", type=pathlib.Path, help="Markdown with places for the tables")
    parser.add_argument("--check", action="store_true", help="compile nothing: name what has changed")
    return command_line.run(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
