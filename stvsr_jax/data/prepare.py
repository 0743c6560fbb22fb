"""Prepares a published data set: `python -m stvsr_jax.data.prepare NAME --source PATH --data_dir DIR`.

What it reads is checked and every frame decoded; what is missing or damaged is named. Interrupted, it goes on
where it was with the same command. DIR/NAME/VERSION appears when everything is there, and training reads it
as `--config.data.path=DIR/NAME`.
"""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from stvsr_jax import command_line
from stvsr_jax.data.builders import BUILDERS
from stvsr_jax.data.builders.source_clip import first_few
from stvsr_jax.data.prepared import list_splits
from stvsr_jax.locks import only_one
from stvsr_jax.parsers.prepare import make_parser


def prepare(
    name: str,
    *,
    source: str | os.PathLike,
    data_dir: str | os.PathLike,
    num_workers: int = 1,
    **options,
) -> Path:
    """Prepares a data set unless it is; returns its directory.

    Args:
      name: in `builders.BUILDERS`.
      source: where the published files are.
      data_dir: the data set goes to data_dir/name/version.
      num_workers: processes.
      options: of the builder.

    Raises:
      FileNotFoundError: no such source.
      ValueError: the source is incomplete, damaged or something else, or the name or an option is unknown; or what was
        prepared before lacks clips or splits.
      BlockingIOError: another process is preparing the same data set.
    """
    if name not in BUILDERS:
        raise ValueError(f"name={name!r} is not one of {sorted(BUILDERS)}")
    if num_workers < 1:
        raise ValueError(f"num_workers={num_workers} must be at least 1")
    source, data_dir = Path(source).expanduser(), Path(data_dir).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"source={source} does not exist")
    builder = BUILDERS[name](data_dir=data_dir.absolute(), source=source, num_workers=num_workers, **options)
    with only_one(data_dir / name / ".lock", "being prepared"):
        _remove_leftovers(builder)
        if not _is_complete(builder):
            # TFDS prints that it downloads something of unknown size.
            with contextlib.redirect_stdout(None):
                builder.download_and_prepare(download_dir=builder.parts_dir / "downloads")
        elif added := builder.find_added(source):
            raise ValueError(
                f"{builder.data_dir} was prepared with --partial, without {len(added)} clips that are there now: "
                f"{first_few(added)}; delete it to prepare all"
            )
        wanted = {f"test_{list_name}" for list_name in options.get("test_lists", ())}
        if lacking := sorted(wanted - set(list_splits(builder.data_dir))):
            raise ValueError(
                f"{builder.data_dir} was prepared without {', '.join(lacking)}; delete it to add them"
            )
    return Path(builder.data_dir)


def _remove_leftovers(builder) -> None:
    """Removes the files of a killed process: half-linked, or finished but not tidied."""
    for path in Path(builder.data_dir).parent.glob("incomplete.*"):
        shutil.rmtree(path)
    if _is_complete(builder) and builder.parts_dir.exists():
        shutil.rmtree(builder.parts_dir)


def _is_complete(builder) -> bool:
    return Path(builder.data_dir, "dataset_info.json").is_file()


def run(args: argparse.Namespace) -> None:
    """Prepares what the command line says."""
    options = {"is_partial": args.partial}
    if args.test_list:
        if args.name != "vimeo90k":
            raise ValueError(f"--test_list is for vimeo90k, not for {args.name}")
        options["test_lists"] = _parse_lists(args.test_list)
    with command_line.resumable("the same command goes on from here"):
        folder = prepare(
            args.name, source=args.source, data_dir=args.data_dir, num_workers=args.num_workers, **options
        )
    print(f"{args.name} is in {folder}; train on it with --config.data.path={folder.parent}")


def _parse_lists(texts: Sequence[str]) -> dict[str, str]:
    lists = dict(text.partition("=")[::2] for text in texts)
    for name, path in lists.items():
        if not name.isidentifier() or not path:
            raise ValueError(f"--test_list={name}={path} must be NAME=FILE, like fast=sep_fast_testset.txt")
    return lists


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.data.prepare"), run, argv)


if __name__ == "__main__":
    sys.exit(main())
