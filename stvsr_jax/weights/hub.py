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

from stvsr_jax.weights import card, files, sources


def export(layout: files.Layout, folder: pathlib.Path, *, overwrite: bool) -> None:
    """Write a set in the hub's layout.

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


def main(argv: Sequence[str] | None = None) -> int:
    """Writes a folder to upload; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m stvsr_jax.weights.hub",
        description="Writes a set of weights in the layout of the Hugging Face hub.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("set", help="name of a set in the package, its .safetensors file, or its folder")
    add("folder", type=pathlib.Path, help="what to write")
    add("--overwrite", action="store_true", help="replace files that exist")
    args = parser.parse_args(argv)
    try:
        sources.check_exists(args.set)
        layout = sources.find_set(args.set)
        if layout is None:
            raise ValueError(f"{args.set} is no set of weights; stvsr_jax.weights.publish makes one of a run")
        export(layout, args.folder, overwrite=args.overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.folder}; to upload it: hf upload USER/REPO {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
