"""From what stands on the command line to pairs of one input and one output."""

import pathlib
from collections.abc import Sequence

from stvsr_jax.data.sources import VIDEO_SUFFIXES
from stvsr_jax.inference import pictures


def pair_up(
    inputs: Sequence[pathlib.Path], output: pathlib.Path, *, suffix: str, shard: tuple[int, int] = (0, 1)
) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], bool]:
    """Gives every input its output.

    Args:
      inputs: videos, folders of pictures, folders of videos.
      output: of the one input; of several, or of a folder of videos, the folder for theirs.
      suffix: of their names, '' for folders of pictures.
      shard: (i, n): only every n-th pair, from the i-th on.

    Returns:
      The pairs; whether they are several of which each is to be done, come what may of the others.

    Raises:
      ValueError: an input is missing or ambiguous, two outputs have one name, or the shard is impossible.
    """
    number, count = shard
    if not 0 <= number < count:
        raise ValueError(
            f"shard={number}/{count} must be a number from 0 and, larger than it, how many there are"
        )
    files = [file for given in inputs for file in expand(given)]
    if len(inputs) == 1 and files == [inputs[0]]:
        if count != 1:
            raise ValueError(f"shard={number}/{count} needs several inputs")
        return [(files[0], output)], False
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {output} of several inputs must be a folder")
    pairs = [(file, output / f"{file.stem}{suffix}") for file in files]
    seen = {}
    for file, target in pairs:
        if target in seen:
            raise ValueError(f"inputs {seen[target]} and {file} would have one output, {target}")
        seen[target] = file
    return pairs[number::count], True


def expand(given: pathlib.Path) -> list[pathlib.Path]:
    """Returns the videos of a folder of videos; a file, or a folder of pictures, as it is.

    Raises:
      ValueError: it does not exist, or holds both videos and pictures.
    """
    if not given.exists():
        raise ValueError(f"input {given} does not exist")
    if not given.is_dir():
        return [given]
    children = (f for f in given.iterdir() if not f.name.startswith(".") and f.is_file())
    videos = sorted((f for f in children if f.suffix.lower() in VIDEO_SUFFIXES), key=pictures.natural_key)
    if videos and pictures.list_pictures(given):
        raise ValueError(f"input folder {given} holds videos and pictures; which are meant?")
    return videos or [given]
