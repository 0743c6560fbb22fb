"""Arguments of `stvsr demo`."""

import argparse

from stvsr_jax import command_line


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(
        prog, "Serves a page in the browser: upload a video, choose scale and frame rate, compare, download."
    )
    parser.add_argument(
        "--checkpoint",
        metavar="WEIGHTS",
        help="weights besides those that ship: a training run, converted weights, or hf://USER/REPO",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to serve; default: this machine only")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument("--max_upload", type=int, default=500, help="megabytes of a video; default: 500")
    return parser
