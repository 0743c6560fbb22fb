"""The sets of weights that ship with the package, by name; imports nothing heavy."""

import pathlib

FOLDER = pathlib.Path(__file__).parent


def list_names() -> list[str]:
    """Returns the names of the sets in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))
