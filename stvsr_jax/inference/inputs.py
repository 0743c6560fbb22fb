"""From what stands on the command line to pairs of one input and one output."""

import collections
import pathlib
import re
from collections.abc import Sequence

from stvsr_jax.files import VIDEO_SUFFIXES, is_file_or_dead_link
from stvsr_jax.video import picture_folder


def pair_up(
    inputs: Sequence[pathlib.Path], output: pathlib.Path, *, suffix: str, shard: tuple[int, int] = (0, 1)
) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], bool]:
    """Gives every input its output.

    Args:
      inputs: videos, folders of pictures, folders of videos.
      output: of the one input; of several, or of a folder of videos, the folder for theirs.
      suffix: of their names, a dot and more; '' for folders of pictures.
      shard: (i, n): only every n-th pair, from the i-th on.

    Returns:
      The pairs; whether they are several of which each is to be done, come what may of the others.

    Raises:
      ValueError: an input is missing or ambiguous, two outputs have one name, an output is an input, or the
        suffix or shard is impossible.
    """
    number, count = shard
    if not 0 <= number < count:
        raise ValueError(
            f"shard={number}/{count} must be a number from 0 and, larger than it, how many there are"
        )
    if suffix and not re.fullmatch(r"\.[^./]+", suffix):
        raise ValueError(f"suffix={suffix!r} must be empty, or a dot and the kind of file: .mp4")
    files = [file for given in inputs for file in expand(given)]
    if len(inputs) == 1 and files == [inputs[0]]:
        if count != 1:
            raise ValueError(f"shard={number}/{count} needs several inputs")
        return [(files[0], output)], False
    if output.exists() and not output.is_dir():
        raise ValueError(f"output {output} of several inputs must be a folder")
    if any(given.is_dir() and given.resolve() == output.resolve() for given in inputs):
        raise ValueError(f"output folder {output} is the input folder")
    # Of a folder's name nothing is a suffix.
    pairs = [(file, output / f"{file.name if file.is_dir() else file.stem}{suffix}") for file in files]
    seen, sources = {}, {file.resolve() for file in files}
    for file, path in pairs:
        if path.resolve() in sources:
            raise ValueError(f"output {path} of {file} is an input; choose another folder or --suffix")
        if path in seen:
            raise ValueError(f"inputs {seen[path]} and {file} would have one output, {path}")
        seen[path] = file
    return pairs[number::count], True


def expand(given: pathlib.Path) -> list[pathlib.Path]:
    """Returns the videos of a folder of videos; a file, or a folder of pictures, as it is.

    Pictures beside videos are left out as posters and thumbnails, unless they look like frames.

    Raises:
      ValueError: it does not exist, or holds both videos and pictures.
    """
    if not given.exists():
        raise ValueError(f"input {given} does not exist")
    if not given.is_dir():
        return [given]
    children = (f for f in given.iterdir() if not f.name.startswith(".") and is_file_or_dead_link(f))
    videos = sorted(
        (f for f in children if f.suffix.lower() in VIDEO_SUFFIXES), key=picture_folder.natural_key
    )
    if videos and _look_like_frames(picture_folder.list_pictures(given), videos):
        raise ValueError(f"input folder {given} holds videos and pictures; which are meant?")
    return videos or [given]


def _look_like_frames(files, videos):
    """Whether two pictures differ in nothing but a number, and are not named after a video."""
    stems = tuple(video.stem for video in videos)
    names = [re.sub(r"\d+", "0", file.name) for file in files if not file.name.startswith(stems)]
    return max(collections.Counter(names).values(), default=0) > 1
