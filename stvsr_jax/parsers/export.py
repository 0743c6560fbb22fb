"""Arguments of `stvsr export`."""

import argparse
import pathlib

from stvsr_jax import command_line
from stvsr_jax.parsers import values


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(
        prog, "Writes a network as a StableHLO file that runs without this package."
    )
    add = parser.add_argument
    add("output", type=pathlib.Path, help="the file to write")
    values.add_weights(parser)
    add("--size", type=values.parse_size, required=True, metavar="WxH", help="of the frames that go in")
    add("--space", type=float, default=4.0, help="enlargement; any number >= 1 with videoinr")
    add("--time", type=int, default=2, help="output frames per input frame; any with videoinr")
    values.add_average(parser)
    add(
        "--platform",
        action="append",
        type=values.one_of("stvsr_jax.export", "PLATFORMS"),
        metavar="{cpu,cuda,tpu}",
        help="may be repeated; default: all",
    )
    values.add_overwrite(parser)
    return parser
