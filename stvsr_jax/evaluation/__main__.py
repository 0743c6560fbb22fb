"""Command line: `python -m stvsr_jax.evaluation DATA --protocol zsm --model CHECKPOINT --out DIR`.

Everything that can be wrong is checked before the first frame is computed; what is wrong is one line on stderr
and exit code 2. An error later on is exit code 1, an interruption 130: the same command then goes on with the
clip where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import jax

from stvsr_jax import checkpoint
from stvsr_jax.evaluation import coded, datasets, methods, protocols, report, runner
from stvsr_jax.evaluation.baselines import BASELINES
from stvsr_jax.inference import predictor, tile_size
from stvsr_jax.runtime import compilation
from stvsr_jax.weights import sources


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = argparse.ArgumentParser(
        prog="stvsr_jax.evaluation",
        description="Measures a network or a baseline on a data set under a named protocol.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("data", type=Path, help="folder of the data set; with --dataset folder also a single clip")
    add("--dataset", choices=list(datasets.LAYOUTS), default="folder", help="layout; default: any clips")
    add(
        "--protocol",
        choices=list(protocols.PROTOCOLS),
        required=True,
        metavar="NAME",
        help=", ".join(protocols.PROTOCOLS),
    )
    names = ", ".join([*sources.list_shipped(), *BASELINES])
    add("--model", required=True, help=f"{names}, a training run, converted weights, or hf://USER/REPO")
    add("--out", type=Path, required=True, help="folder of this evaluation; one that was interrupted goes on")
    add("--low", type=Path, help="folder of given low-resolution clips; default: made from the ground truth")
    add("--clip_list", type=Path, help="names of the clips, for Vimeo-90k; default: FOLDER/SPEED_testset.txt")
    add("--reduce", type=float, default=1.0, help="reduce frames so many times to get the ground truth")
    add("--degrade", metavar="h264:CRF", help="code the low resolution with x264 first, like h264:28")
    add("--dtype", choices=sorted(predictor.DTYPES), default="float32", help="number format of the network")
    add("--weights", choices=checkpoint.WEIGHTS, default="ema", help="of a run: their average, or as trained")
    add("--tile", type=int, default=0, help="longest tile side in input pixels; 0, the default: whole frames")
    add("--tof", action="store_true", help="also temporal consistency, tOF (needs OpenCV)")
    add("--save_frames", action="store_true", help="also predictions and ground truth, as PNG")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        args = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its own message
        return int(stop.code or 0)
    if args.dtype == "float32":
        # Real float32: by default a GPU may take TF32 for it, and numbers depend on the device more than need be.
        jax.config.update("jax_default_matmul_precision", "highest")
    is_running = False
    try:
        job = _prepare(args)
        is_running = True
        record = runner.evaluate(job, args.out)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError, av.FFmpegError, jax.errors.JaxRuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if is_running else 2
    table = report.make_tables([record])
    (args.out / "table.md").write_text(table)
    print(table, end="")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
