"""Arguments of `stvsr convert`."""

import argparse

from stvsr_jax.parsers import values


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = argparse.ArgumentParser(prog=prog, description="Converts published PyTorch weights.")
    parser.add_argument("weights", help="the published file: .pth, .npz or .safetensors")
    parser.add_argument("out", help="directory of the checkpoint, new or empty")
    parser.add_argument(
        "--model",
        required=True,
        type=values.one_of("stvsr_jax.models", "MODELS"),
        metavar="NETWORK",
        help="videoinr or zooming_slowmo",
    )
    return parser
