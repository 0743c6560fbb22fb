"""The command `stvsr`, also `python -m stvsr_jax`: picks the tool by name.

A tool's parser is a module that imports nothing heavy. The tool itself is imported once its arguments are right.
"""

import dataclasses
import difflib
import importlib
import sys
from collections.abc import Sequence

import stvsr_jax
from stvsr_jax import command_line


@dataclasses.dataclass(frozen=True)
class Tool:
    """What a command runs.

    Attributes:
      summary: of what it does, for --help.
      parser: module of `stvsr_jax.parsers`; its `make_parser(prog)` is called.
      work: module and function that gets the parsed arguments, and returns an exit code or None.
    """

    summary: str
    parser: str
    work: str


TOOLS = {
    "upscale": Tool("enlarge videos and raise their frame rate", "upscale", "inference.__main__:run"),
    "evaluate": Tool("measure a network on a data set", "evaluate", "evaluation.__main__:run"),
    "convert": Tool("convert published PyTorch weights", "convert", "convert:run"),
    "prepare": Tool("prepare a published data set for training", "prepare", "data.prepare:run"),
    "benchmark": Tool("time a network on this machine's devices", "benchmark", "benchmark:start"),
    "speed": Tool("time the whole way of a video, stage by stage", "speed", "inference.speed:run"),
    "export": Tool("write a network as a StableHLO file", "export", "export:run"),
    "demo": Tool("serve a page in the browser", "demo", "demo.__main__:run"),
    "plot": Tool("draw the curves of training runs", "plot", "plot:run"),
}
_TRAIN = "train"  # has absl's flags, for the keys of its config
NAMES = (*list(TOOLS)[:1], _TRAIN, *list(TOOLS)[1:])


def make_usage() -> str:
    """Returns what `stvsr --help` prints."""
    summaries = {name: tool.summary for name, tool in TOOLS.items()} | {
        _TRAIN: "train a network on your own video, or resume"
    }
    lines = "".join(f"  {name:10s}{summaries[name]}\n" for name in NAMES)
    return (
        "usage: stvsr COMMAND [arguments]\n\n"
        "Space-time video super-resolution: enlarges videos and raises their frame rate.\n\n"
        f"{lines}\n"
        "stvsr COMMAND --help lists the arguments of a command; stvsr --version prints the version.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("--help", "-h"):
        print(make_usage(), end="")
        return 0
    if name == "--version":
        print(f"stvsr {stvsr_jax.__version__}")
        return 0
    if not name:
        print(make_usage(), end="", file=sys.stderr)
        return command_line.WRONG_INPUT
    if name not in NAMES:
        (nearest,) = difflib.get_close_matches(name, NAMES, n=1, cutoff=0)
        return command_line.fail(
            f"stvsr has no command {name!r}; did you mean {nearest}? It has {', '.join(NAMES)}"
        )
    prog = f"stvsr {name}"
    if name == _TRAIN:
        training = importlib.import_module("stvsr_jax.main")
        training.entry([prog, *arguments], prog)  # ends the process
    tool = TOOLS[name]
    parser = importlib.import_module(f"stvsr_jax.parsers.{tool.parser}").make_parser(prog)
    module, _, function = tool.work.partition(":")

    def work(args):
        with command_line.ending_at_once():
            imported = importlib.import_module(f"stvsr_jax.{module}")
        return getattr(imported, function)(args)

    return command_line.run(parser, work, arguments)
