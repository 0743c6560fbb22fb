"""Command line: `python -m stvsr_jax.inference IN OUT --space 4 --time 2`; see `command`."""

import argparse
import atexit
import gc
import sys
from collections.abc import Sequence

from stvsr_jax import command_line
from stvsr_jax.inference import early_start
from stvsr_jax.parsers.upscale import make_parser


def run(args: argparse.Namespace) -> int:
    """Enlarges what the command line names; returns the exit code."""
    # Before it ends, Python searches all objects for garbage three times: a third of a second with JAX.
    atexit.register(gc.freeze)
    # The job answers signals in its own way, once it runs.
    with command_line.ending_at_once(), early_start.begun(args) as processes:
        with early_start.importing():
            from stvsr_jax.inference import command

        return command.run(args, processes)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.inference"), run, argv)


if __name__ == "__main__":
    sys.exit(main())
