"""Arguments of `stvsr convert`."""

import argparse

from stvsr_jax import command_line
from stvsr_jax.parsers import values


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(prog, "Converts published PyTorch weights.")
    parser.add_argument("weights", help="the published file: .pth, .npz or .safetensors")
    parser.add_argument("out", help="directory of the checkpoint, new or empty")
    values.add_network(parser, required=True, help="videoinr or zooming_slowmo")
    return parser
