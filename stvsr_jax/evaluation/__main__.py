"""Command line: `python -m stvsr_jax.evaluation DATA --protocol zsm --model CHECKPOINT --out DIR`.

Everything that can be wrong is checked before the first frame is computed; see `command_line` for the exit codes. After
an interruption the same command goes on with the clip where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence

import jax

from stvsr_jax import command_line
from stvsr_jax.evaluation import coded, datasets, methods, protocols, report, runner
from stvsr_jax.inference import tile_size
from stvsr_jax.parsers.evaluate import make_parser
from stvsr_jax.runtime import compilation


def run(args: argparse.Namespace) -> None:
    """Evaluates what the command line names, and prints its table."""
    if args.dtype == "float32":
        # Real float32: by default a GPU may take TF32 for it, and numbers depend on the device more than need be.
        jax.config.update("jax_default_matmul_precision", "highest")
    job = _prepare(args)
    with command_line.working(), command_line.resumable("the same command goes on"):
        record = runner.evaluate(job, args.out)
    table = report.make_tables([record])
    (args.out / "table.md").write_text(table)
    print(table, end="")


def _prepare(args):
    """Checks everything and returns the job."""
    tile_size.check_tile(args.tile)
    protocol = protocols.find_protocol(args.protocol)
    coding = coded.parse_coding(args.degrade) if args.degrade is not None else None
    clips = datasets.open_dataset(
        args.dataset,
        args.data,
        protocol,
        given=args.low,
        clip_list=args.clip_list,
        reduce=args.reduce,
        coding=coding,
    )
    compilation.keep_compiled_programs()
    job = runner.Job(
        method=methods.open_method(args.model, weights=args.weights, dtype=args.dtype, tile=args.tile),
        layout=args.dataset,
        name=args.data.resolve().name if args.dataset == "folder" else args.dataset,
        path=str(args.data),
        given=str(args.low) if args.low else None,
        clips=clips,
        protocol=protocol,
        with_tof=args.tof,
        saves_frames=args.save_frames,
        coding=coding,
    )
    runner.check(job, args.out)
    return job


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.evaluation"), run, argv)


if __name__ == "__main__":
    sys.exit(main())
