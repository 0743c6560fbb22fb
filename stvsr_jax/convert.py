"""Published PyTorch weights to a checkpoint: `python -m stvsr_jax.convert weights.pth OUT --model videoinr`.

Reads PyTorch files (safely: tensors only, nothing in the file is run), `.npz` and `.safetensors`. The result is
an Orbax checkpoint of weights that `stvsr_jax.inference --checkpoint OUT` runs and that training starts from with
`--config.init_from=OUT`.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping

import numpy as np

from stvsr_jax import checkpoint, models
from stvsr_jax.models import from_torch


def read_tensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Read named tensors, without the `module.` prefixes that PyTorch's data parallelism adds.

    Args:
      path: a `.pth`, `.pt`, `.ckpt` or `.bin` of PyTorch holding a state dict (or one under 'state_dict',
        'params' or 'model'), a `.npz` or a `.safetensors` file.

    Returns:
      Tensor name -> array, PyTorch layouts.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, or its kind is unknown, or the library that reads it is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{path}: {suffix!r} is not a kind of weights file; known are {sorted(READERS)}")
    try:
        tensors = READERS[suffix](path)
    except ImportError as error:
        raise ValueError(
            f"{path} needs a package that cannot be imported ({error}): pip install 'stvsr-jax[torch]'"
        ) from error
    except Exception as error:  # each library has exceptions of its own for a damaged file
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return {_strip(name): array for name, array in tensors.items()}


def _read_torch(path):
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "params", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {name: tensor.float().numpy() for name, tensor in content.items()}


def _read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_safetensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


READERS = {
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".ckpt": _read_torch,
    ".bin": _read_torch,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
}


def _strip(name):
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def main(argv: list[str] | None = None) -> int:
    """Converts; returns the exit code."""
    parser = argparse.ArgumentParser(prog="stvsr_jax.convert", description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="the published file: .pth, .npz or .safetensors")
    parser.add_argument("out", help="directory of the checkpoint, new or empty")
    parser.add_argument("--model", required=True, choices=sorted(models.MODELS))
    args = parser.parse_args(argv)
    try:
        params = from_torch.convert(args.model, read_tensors(args.weights))
        checkpoint.save_params(args.out, params, checkpoint.ModelSpec(args.model, {}))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.model}: wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
