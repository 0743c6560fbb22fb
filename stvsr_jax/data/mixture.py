"""Several sources in one `data.path`, each with its share of the samples and options of its own.

A path that begins with a bracket is a list of them, written as in Python:

    [("clips/", 1), ("layers:photos/", 1, {"speed": (0.25, 1.0)}), ("more/", 0.5, {"time_stride": (1, 2)})]

Two of five samples come from clips/, two from moving layers, one from more/. Options are arguments of the function that
opens the source (`moving_layers.open_moving_layers`) and of the recipe.
"""

import ast
import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of a run.

    Attributes:
      path: as of `sources.open_source`, or a prepared data set.
      share: of the samples, relative to the others.
      options: of the source and of the recipe, in place of the run's own.
    """

    path: str
    share: float = 1.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def parse_path(path: str) -> tuple[Source, ...]:
    """Returns the sources that `data.path` names.

    Raises:
      ValueError: a list that is not written as above, or a share that is not positive.
    """
    if not path.lstrip().startswith("["):
        return (Source(path),)
    form = "[('FOLDER', SHARE), ('layers:PHOTOS', SHARE, {'OPTION': VALUE}), ...]"
    try:
        entries = ast.literal_eval(path.strip())
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"data: path={path} is not a list like {form}: {error}") from error
    if not entries:
        raise ValueError(f"data: path={path} names no source; write {form}")
    return tuple(_parse_entry(entry, form) for entry in entries)


def _parse_entry(entry, form):
    fields = (entry,) if isinstance(entry, str) else entry
    kinds = (str, (int, float), dict)
    fits = isinstance(fields, tuple) and 1 <= len(fields) <= len(kinds)
    if not fits or not all(isinstance(f, kind) for f, kind in zip(fields, kinds, strict=False)):
        raise ValueError(f"data: path has the entry {entry!r}; entries look like those of {form}")
    source = Source(*fields)
    if not source.path or not 0 < source.share < math.inf:
        raise ValueError(f"data: path has the entry {entry!r}; it needs a path and a share above 0")
    return source
