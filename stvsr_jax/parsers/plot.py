"""Arguments of `stvsr plot`."""

import argparse
from pathlib import Path

from stvsr_jax import command_line


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(prog, "Draws the curves of training runs.")
    parser.add_argument(
        "run_dirs", type=Path, nargs="+", metavar="RUN_DIR", help="directory of a training run"
    )
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="which panels, as loss or psnr_y; default: all"
    )
    parser.add_argument(
        "--out", type=Path, help="PNG file to write; default: curves.png in the first RUN_DIR"
    )
    return parser
