"""Arguments of `stvsr prepare`."""

import argparse

from stvsr_jax import command_line, stages
from stvsr_jax.parsers import values


def make_parser(prog: str) -> argparse.ArgumentParser:
    """Returns the parser; `prog` is what the user typed."""
    parser = command_line.new_parser(prog, "Prepares a published data set for training.")
    parser.add_argument(
        "name",
        type=values.one_of("stvsr_jax.data.builders", "BUILDERS"),
        metavar="{adobe240,gopro,vimeo90k}",
        help="the data set",
    )
    parser.add_argument(
        "--source",
        required=True,
        help="the published files: vimeo90k, its archive or the extracted folder; adobe240, a folder of the videos or of "
        "folders of frames; gopro, GOPRO_Large_all",
    )
    parser.add_argument("--data_dir", required=True, help="where prepared data sets are kept")
    parser.add_argument(
        "--num_workers", type=int, default=stages.count_cores(), help="processes (default: cores)"
    )
    parser.add_argument("--partial", action="store_true", help="take an incomplete source as it is")
    parser.add_argument(
        "--test_list",
        action="append",
        metavar="NAME=FILE",
        help="vimeo90k: make a further split test_NAME of the clips that FILE lists; may be repeated",
    )
    return parser
