"""Arguments of `stvsr speed`."""

import argparse
import pathlib

from stvsr_jax import command_line
from stvsr_jax.parsers import values


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(
        prog, "Times the whole way of a video, stage by stage, and what network and encoder do alone."
    )
    add = parser.add_argument
    add("input", type=pathlib.Path, help="a video, or a folder of pictures; nothing is kept of the output")
    values.add_weights(parser)
    values.add_network(parser, "--random", help="random weights: videoinr or zooming_slowmo")
    add("--space", type=float, help="enlargement; default: 4")
    add("--time", type=int, help="output frames per input frame; default: 2")
    add("--max_frames", type=int, help="use only this many input frames")
    add("--input_fps", type=values.parse_rate, help="rate of a folder of pictures or a raw stream")
    values.add_running(parser)
    add("--devices", type=int, help="use only the first so many; default: all of this process")
    values.add_codec(parser)
    add(
        "--sink",
        choices=("file", "null"),
        default="file",
        help="null: frames are converted and then forgotten",
    )
    add("--json", action="store_true", help="one line of JSON instead of a table")
    return parser
