"""Trains or scores a network: `python -m stvsr_jax.main --config configs/videoinr.py`, or `stvsr train`."""

import pathlib
from collections.abc import Sequence

from absl import app, flags
from ml_collections import config_flags

from stvsr_jax import command_line, config_flag

USAGE = """usage: {} --config CONFIG [--workdir DIR] [--mode train|eval] [--config.KEY=VALUE ...]

Trains a network, or scores it. The same command resumes.

  --config CONFIG       a file, or a config of the package: {}; after a colon a variant, as videoinr:quick
  --config.KEY=VALUE    another value of a key of the config, as --config.data.path=FOLDER
  --workdir DIR         of the run; default: runs/ and the config's name
  --mode train|eval     train, or score the held-out windows; default: train
  --verbosity 0         show what the libraries report
"""

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; default: runs/ and the config's name.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval"], "Train (and resume), or score the held-out windows."
)


def main(argv: Sequence[str]) -> int:
    """Runs the config and returns the exit code; SIGTERM ends it with a saved state."""
    config_flag.set_verbosity()
    with command_line.ending_at_once():
        from stvsr_jax.runtime import distributed  # imports JAX, which takes a second: not for --help

    return distributed.guard(lambda: _run(argv))


def _run(argv):
    if len(argv) > 1:
        raise ValueError(f"unexpected arguments {argv[1:]}")
    with command_line.ending_at_once():
        import jax

        from stvsr_jax.runtime import compilation, distributed
        from stvsr_jax.training import train

    run = {"train": train.train_and_evaluate, "eval": train.evaluate_only}[_MODE.value]
    try:
        distributed.initialize()
        compilation.keep_compiled_programs()
        scores = run(_CONFIG.value, _WORKDIR.value or _default_workdir())
    except command_line.StoppedError as stopped:
        if jax.process_index() == 0:  # it says so for all
            raise
        return 128 + stopped.signal_number
    except ImportError as error:  # what gs:// needs
        raise ValueError(str(error)) from error
    if jax.process_index() == 0:
        print("  ".join(f"{name} {value:.3f}" for name, value in scores.items()))


def _default_workdir():
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return pathlib.Path("runs") / "-".join(filter(None, (pathlib.Path(path).stem, variant)))


def entry(argv: Sequence[str] | None = None, prog: str = "python -m stvsr_jax.main") -> None:
    """Parses the flags, runs, and ends the process.

    Args:
      argv: the program and its arguments; None for those of this process.
      prog: what the user typed.
    """
    usage = USAGE.format(prog, ", ".join(config_flag.list_names()))
    flags.mark_flag_as_required("config")
    app.run(main, argv=argv, flags_parser=lambda args: config_flag.parse(args, _CONFIG, usage))


if __name__ == "__main__":
    entry()
