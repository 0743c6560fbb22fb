"""Takes the parameters of a run apart into files of limited size, and makes checkpoints of such files.

    python launch/parameters.py pack RUN OUT [--dtype float32] [--weights raw] [--megabytes 15]
    python launch/parameters.py unpack OUT CHECKPOINT --model zooming_slowmo
    python launch/parameters.py unpack OUT CHECKPOINT --model videoinr --partly

For training in cycles on machines that come and go and hand back small files only. The names in the .npz files are
the paths in the parameter tree, joined by "/". `--partly` draws what the files lack afresh: VideoINR begins with the
encoder of Zooming Slow-Mo, which has the same parameters.
"""

import argparse
import pathlib
import sys

import flax.traverse_util
import jax
import numpy as np

from stvsr_jax import checkpoint, models
from stvsr_jax.training import train_state


def pack(run: str, out: pathlib.Path, *, dtype: str, weights: str, megabytes: float) -> list[pathlib.Path]:
    """Write the newest parameters of a run as .npz files of at most about `megabytes`."""
    restored = checkpoint.load_for_inference(run, weights=weights)
    flat = flax.traverse_util.flatten_dict(jax.device_get(restored.params), sep="/")
    parts, size = [{}], 0
    for name, value in flat.items():
        value = value.astype(dtype)
        if size + value.nbytes > megabytes * 1e6 and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = value
        size += value.nbytes
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{restored.model_name}_{weights}_{restored.step}.{i}.npz" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        np.savez(path, **part)
    return paths


def unpack(folder: pathlib.Path, out: str, *, model: str, partly: bool) -> None:
    """Write a checkpoint of the network `model`, in its published size, from all .npz files of a folder."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            found.update({name: file[name].astype(np.float32) for name in file.files})
    spec = checkpoint.ModelSpec(model, {})
    drawn = train_state.draw_params(spec.build(), jax.random.key(0))
    flat = flax.traverse_util.flatten_dict(drawn, sep="/")
    missing = [name for name in flat if name not in found]
    if missing and not partly:
        raise ValueError(f"{folder} lacks {len(missing)} parameters of {model}, the first is {missing[0]}")
    for name in flat.keys() & found.keys():
        if flat[name].shape != found[name].shape:
            raise ValueError(f"{name} has shape {found[name].shape}, in {model} it is {flat[name].shape}")
        flat[name] = found[name]
    print(f"{len(flat) - len(missing)} parameters of {folder}, {len(missing)} drawn afresh")
    checkpoint.save_params(out, flax.traverse_util.unflatten_dict(flat, sep="/"), spec)


def main() -> None:
    """Command line; a wrong input ends with one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("run")
    packing.add_argument("out", type=pathlib.Path)
    packing.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    packing.add_argument("--weights", default="raw", choices=checkpoint.WEIGHTS)
    packing.add_argument("--megabytes", type=float, default=15)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("folder", type=pathlib.Path)
    unpacking.add_argument("out")
    unpacking.add_argument("--model", required=True, choices=sorted(models.MODELS))
    unpacking.add_argument("--partly", action="store_true", help="draw parameters that the files lack")
    options = vars(parser.parse_args())
    command = options.pop("command")
    try:
        if command == "pack":
            print(*pack(**options), sep="\n")
        else:
            unpack(**options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
