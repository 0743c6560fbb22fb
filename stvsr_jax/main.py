"""Trains or scores a network: `python -m stvsr_jax.main --config configs/videoinr.py`."""

import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from stvsr_jax.runtime import compilation, distributed
from stvsr_jax.training import train

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Config file, e.g. configs/videoinr.py:quick."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; default: runs/ and the config's name.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval"], "Train (and resume), or score the held-out windows."
)


def main(argv: list[str]) -> None:
    """Runs the config; a wrong input ends with one line and exit code 2, SIGTERM with a saved state and 143."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the libraries report every save
        # Orbax logs with a traceback what it also raises.
        logging.get_absl_handler().addFilter(lambda record: "/orbax/" not in record.pathname)
    run = {"train": train.train_and_evaluate, "eval": train.evaluate_only}[_MODE.value]
    try:
        distributed.initialize()
        compilation.keep_compiled_programs()
        scores = run(_CONFIG.value, _WORKDIR.value or _default_workdir())
    except distributed.StoppedError as stopped:
        if jax.process_index() == 0:
            print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal_number)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:  # the last: what gs:// needs
        if logging.get_verbosity() > logging.INFO:
            raise
        _fail(error)
    if jax.process_index() == 0:
        print("  ".join(f"{name} {value:.3f}" for name, value in scores.items()))


def _default_workdir():
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return pathlib.Path("runs") / "-".join(filter(None, (pathlib.Path(path).stem, variant)))


def _parse_flags(argv):
    """Returns the arguments that are no flags."""
    try:
        rest = flags.FLAGS(argv)
        _CONFIG.value.keys  # noqa: B018 - a file that is not there raises here, not when flags are parsed
    except (AttributeError, KeyError) as error:  # of config_flags
        while isinstance(error.args[0], Exception):
            error = error.args[0]
        _fail(f"--config has no key {' '.join(str(error.args[0]).split())}")
    except (flags.Error, OSError) as error:
        # Where config_flags reports several lines, a traceback or its attempts, the last says what is wrong.
        _fail(str(error).strip().splitlines()[-1].strip())
    return rest


def _fail(error):
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def entry() -> None:
    """Console entry point."""
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    entry()
