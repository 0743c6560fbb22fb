"""Makes a set of weights of a training run, a checkpoint or arrays.

    python -m stvsr_jax.weights.publish runs/zooming_slowmo FOLDER --name zooming_slowmo --card facts.json
    python -m stvsr_jax.weights.publish part0.npz part1.npz FOLDER --name video --network zooming_slowmo --card facts.json

FOLDER gets NAME.safetensors (float16), NAME.json and NAME.md; with FOLDER `stvsr_jax/weights` of a source tree the set
ships with the package. Of a run the average of the parameters is taken, where it has one. Arrays are one or several
.npz files that together hold all parameters, each named by its path joined by "/". `card` says which facts there are.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from stvsr_jax import checkpoint, command_line, models
from stvsr_jax.models.spec import ModelSpec
from stvsr_jax.weights import card, files


def read_parts(paths: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Reads parameters from .npz files that hold a part each.

    Returns:
      The parameter tree.

    Raises:
      ValueError: a file cannot be read, or two of them hold the same parameter.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as file:
                part = dict(file)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as .npz: {error}") from error
        if repeated := sorted(set(part) & set(arrays)):
            raise ValueError(f"{path} holds {repeated[0]} again; another part has it already")
        arrays.update(part)
    return files.unflatten(arrays)


def publish(
    params: Any,
    spec: ModelSpec,
    layout: files.Layout,
    *,
    name: str,
    facts: Any,
    dtype: str = "float16",
    overwrite: bool = False,
) -> files.Description:
    """Writes a set.

    Args:
      params: the parameter tree.
      spec: the network that they belong to.
      layout: the files to write.
      name: of the set.
      facts: for the card; see `card`.
      dtype: of the file of parameters, one of `files.DTYPES`.
      overwrite: whether to replace files that exist.

    Raises:
      ValueError: the parameters are not the network's, not finite or too large for `dtype`, a fact is missing, or
        a file exists.
    """
    card.check_facts(facts)
    content = files.encode(params, dtype)
    description = files.describe(content, name=name, spec=spec, dtype=dtype, facts=facts)
    files.write(layout, content, description, card.render(description), overwrite=overwrite)
    files.read(layout)  # what was written can be read
    return description


def make_parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    parser = command_line.new_parser(
        "python -m stvsr_jax.weights.publish",
        "Makes a set of weights of a training run, a checkpoint or arrays.",
    )
    add = parser.add_argument
    add("source", nargs="+", help="a training run, a checkpoint, or one or several .npz files")
    add("folder", type=pathlib.Path, help="where the set goes")
    add("--name", required=True, help="of the set")
    add("--card", type=pathlib.Path, required=True, help="facts for the card, a JSON file")
    add("--weights", choices=checkpoint.WEIGHTS, default="ema", help="of a run: their average, or as trained")
    add("--step", type=int, help="of a run: which checkpoint; default: the newest")
    add("--network", choices=sorted(models.MODELS), help="of arrays; default: the set's name")
    add("--fields", type=json.loads, default={}, help='of arrays: sizes of the network, {"back_blocks": 10}')
    add("--dtype", choices=files.DTYPES, default="float16", help="of the file; default: float16")
    add("--overwrite", action="store_true", help="replace a set that exists")
    return parser


def run(args: argparse.Namespace) -> None:
    """Writes the set that the command line asks for."""
    facts = _read_facts(args.card)
    params, spec = _read_source(args)
    layout = files.layout_of(args.folder, args.name)
    description = publish(
        params,
        spec,
        layout,
        name=args.name,
        facts=facts,
        dtype=args.dtype,
        overwrite=args.overwrite,
    )
    size = layout.params.stat().st_size / 1e6
    print(f"{layout.params}: {description.parameters:,} parameters, {size:.1f} MB, {description.sha256}")


def _read_facts(path):
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        card.check_facts(facts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return facts


def _read_source(args):
    if all(source.endswith(".npz") for source in args.source):
        network = args.network or args.name
        if network not in models.MODELS:
            raise ValueError(
                f"--network is needed: {network} is not one of {', '.join(sorted(models.MODELS))}"
            )
        return read_parts(args.source), ModelSpec(network, args.fields)
    if len(args.source) > 1:
        raise ValueError(f"several sources must be .npz files, these are {', '.join(args.source)}")
    if args.network or args.fields:
        raise ValueError(f"--network and --fields go with .npz files; {args.source[0]} knows its network")
    restored = checkpoint.load_for_inference(args.source[0], step=args.step, weights=args.weights)
    return restored.params, ModelSpec(restored.model_name, restored.model_kwargs)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
