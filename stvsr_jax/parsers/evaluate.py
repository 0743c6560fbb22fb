"""Arguments of `stvsr evaluate`."""

import argparse
from pathlib import Path

from stvsr_jax import command_line
from stvsr_jax.evaluation import protocols
from stvsr_jax.parsers import values
from stvsr_jax.weights import shipped


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(
        prog, "Measures a network or a baseline on a data set under a named protocol."
    )
    add = parser.add_argument
    add("data", type=Path, help="folder of the data set; with --dataset folder also a single clip")
    add(
        "--dataset",
        type=values.one_of("stvsr_jax.evaluation.datasets", "LAYOUTS"),
        default="folder",
        metavar="LAYOUT",
        help="folder (any clips, the default), vid4, spmc, vimeo90k-fast, vimeo90k-medium, vimeo90k-slow, "
        "adobe240 or gopro",
    )
    add(
        "--protocol",
        choices=list(protocols.PROTOCOLS),
        required=True,
        metavar="NAME",
        help=", ".join(protocols.PROTOCOLS),
    )
    names = ", ".join([*shipped.list_names(), "bicubic_blend", "bicubic_repeat", "bilinear_blend"])
    add("--model", required=True, help=f"{names}, a training run, converted weights, or hf://USER/REPO")
    add("--out", type=Path, required=True, help="folder of this evaluation; one that was interrupted goes on")
    add("--low", type=Path, help="folder of given low-resolution clips; default: made from the ground truth")
    add("--clip_list", type=Path, help="names of the clips, for Vimeo-90k; default: FOLDER/SPEED_testset.txt")
    add("--reduce", type=float, default=1.0, help="reduce frames so many times to get the ground truth")
    add("--degrade", metavar="h264:CRF", help="code the low resolution with x264 first, like h264:28")
    values.add_dtype(parser, default="float32")
    values.add_average(parser)
    add("--tile", type=int, default=0, help="longest tile side in input pixels; 0, the default: whole frames")
    add("--tof", action="store_true", help="also temporal consistency, tOF (needs OpenCV)")
    add("--save_frames", action="store_true", help="also predictions and ground truth, as PNG")
    return parser
