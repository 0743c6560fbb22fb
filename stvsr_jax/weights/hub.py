"""A set of weights as a folder to upload to the Hugging Face hub.

    python -m stvsr_jax.weights.hub zooming_slowmo FOLDER
    hf upload USER/REPO FOLDER

The folder holds `config.json`, `model.safetensors` and `README.md`, the card with the header that the hub reads.
`sources` reads hf://USER/REPO.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from stvsr_jax import command_line
from stvsr_jax.weights import card, files, sources


def export(layout: files.Layout, folder: pathlib.Path, *, overwrite: bool) -> None:
    """Writes a set in the hub's layout.

    Raises:
      ValueError: the set is damaged, or the files exist.
      OSError: they cannot be written.
    """
    files.read(layout)  # nothing damaged is passed on
    description = files.read_description(layout.description)
    text = card.make_header(description) + card.render(description)
    files.write(
        files.hub_layout_of(folder), layout.params.read_bytes(), description, text, overwrite=overwrite
    )


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = command_line.new_parser(
        "python -m stvsr_jax.weights.hub", "Writes a set of weights in the layout of the Hugging Face hub."
    )
    add = parser.add_argument
    add("set", help="name of a set in the package, its .safetensors file, or its folder")
    add("folder", type=pathlib.Path, help="what to write")
    add("--overwrite", action="store_true", help="replace files that exist")
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes a folder to upload."""
    sources.check_exists(args.set)
    layout = sources.find_set(args.set)
    if layout is None:
        raise ValueError(f"{args.set} is no set of weights; stvsr_jax.weights.publish makes one of a run")
    export(layout, args.folder, overwrite=args.overwrite)
    print(f"wrote {args.folder}; to upload it: hf upload USER/REPO {args.folder}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
