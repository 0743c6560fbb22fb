"""The flag --config of the command lines that read one: a file, or the name of a config that the package holds."""

import difflib
import pathlib
import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from stvsr_jax import command_line

FOLDER = pathlib.Path(__file__).parent / "configs"


def define() -> flags.FlagHolder:
    """Defines the flag; `parse` reads it."""
    return config_flags.DEFINE_config_file(
        "config",
        help_string=f"A config's file, or {' or '.join(list_names())}, with a variant after a colon.",
    )


def list_names() -> list[str]:
    """Returns the names of the configs that the package holds."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def find(value: str) -> str:
    """Returns the file of a config, with its variant after a colon where one is named.

    Args:
      value: the same, or a name in the package instead of a file; a file of that name goes first.

    Raises:
      ValueError: it is neither.
    """
    name, colon, variant = value.partition(":")
    if pathlib.Path(name).suffix or pathlib.Path(name).exists():
        return value
    if name in list_names():
        return f"{FOLDER / name}.py{colon}{variant}"
    nearest = difflib.get_close_matches(name, list_names(), n=1, cutoff=0)[0]
    raise ValueError(
        f"--config {name} is no file, and no config of this package ({', '.join(list_names())}); did you mean {nearest}?"
    )


def parse(argv: Sequence[str], config: flags.FlagHolder, usage: str) -> list[str]:
    """Parses the flags and returns what is none; a wrong flag, or --help, ends the program.

    Args:
      argv: the program and its arguments.
      config: from `define`.
      usage: what --help prints.
    """
    if set(argv) & {"--help", "-h", "-help"}:
        print(usage, end="")
        sys.exit(0)
    try:
        rest = flags.FLAGS(_find_all(argv))
        config.value.keys  # noqa: B018 - a file that is not there raises here, not when flags are parsed
    except (AttributeError, KeyError) as error:  # of config_flags
        while isinstance(error.args[0], Exception):
            error = error.args[0]
        sys.exit(command_line.fail(f"--config has no key {' '.join(str(error.args[0]).split())}"))
    except (flags.Error, OSError, ValueError) as error:
        # Where config_flags reports several lines, a traceback or its attempts, the last says what is wrong.
        sys.exit(command_line.fail(str(error).strip().splitlines()[-1].strip()))
    return rest


def _find_all(argv):
    found = list(argv)
    for number, word in enumerate(argv):
        if word in ("--config", "-config") and number + 1 < len(argv):
            found[number + 1] = find(argv[number + 1])
        elif word.startswith(("--config=", "-config=")):
            flag, _, value = word.partition("=")
            found[number] = f"{flag}={find(value)}"
    return found


def set_verbosity() -> None:
    """Silences the libraries that report every save and every file, unless the user asks for it."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        # Orbax logs with a traceback what it also raises.
        logging.get_absl_handler().addFilter(lambda record: "/orbax/" not in record.pathname)
