"""Published PyTorch weights to a checkpoint: `python -m stvsr_jax.convert weights.pth OUT --model videoinr`.

Reads PyTorch files (safely: tensors only, nothing in the file is run), `.npz` and `.safetensors`. The result is
an Orbax checkpoint of weights that `stvsr_jax.inference --checkpoint OUT` runs and that training starts from with
`--config.init_from=OUT`.
"""

import argparse
import pathlib
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stvsr_jax import checkpoint, command_line, weights_file
from stvsr_jax.models import from_torch
from stvsr_jax.parsers.convert import make_parser

# Keys of a checkpoint that hold its tensors, the better first: an average of the weights beats the weights.
_KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "net", "model")
# From this version on `weights_only` keeps crafted files from running code.
_SAFE_TORCH = (2, 6)


def read_tensors(
    path: str | pathlib.Path, *, say: Callable[[str], None] = lambda remark: None
) -> dict[str, np.ndarray]:
    """Reads named tensors, without the `module.` prefixes that PyTorch's data parallelism adds.

    Args:
      path: a `.pth`, `.pt`, `.ckpt` or `.bin` of PyTorch holding a state dict (or one under a key: 'params_ema'
        before 'params', 'state_dict', 'model_state_dict', 'net', 'model', or any other if there is but one), a
        `.npz` or a `.safetensors` file.
      say: gets a line where there was a choice.

    Returns:
      Tensor name -> array, PyTorch layouts.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is something else, is damaged, or the library that reads it is missing or too old.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file of weights in it")
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{path}: {suffix!r} is not a kind of weights file; known are {sorted(READERS)}")
    try:
        content = READERS[suffix](path)
        tensors = _choose_tensors(content, lambda remark: say(f"{path} {remark}"))
        return {_strip(name): _to_array(tensor) for name, tensor in tensors.items()}
    except ImportError as error:
        if mistake := weights_file.describe(path):
            raise ValueError(f"{path} cannot be read: it {mistake}") from error
        raise ValueError(
            f"{path} needs a package that is missing or too old ({error}): pip install 'stvsr-jax[torch]'"
        ) from error
    except _NoTensors as error:
        raise ValueError(f"{path} cannot be read: it {weights_file.describe(path) or error}") from error
    except Exception as error:  # each library has exceptions of its own for a damaged file
        raise ValueError(
            f"{path} cannot be read: it {weights_file.describe(path) or _explain(error)}"
        ) from error


class _NoTensors(Exception):
    """What a file holds instead."""


def _explain(error):
    if isinstance(error, pickle.UnpicklingError):
        return (
            "holds Python objects besides tensors, or is damaged; objects are not loaded, as they can run code: "
            "save its state dict alone"
        )
    reason = next(iter(str(error).strip().splitlines()), "")
    return f"is damaged or cut short ({type(error).__name__}: {reason})"


def _choose_tensors(content, say):
    """Returns the state dict in a file's content, tensor or array by name; its keys may lie deeper."""
    if not isinstance(content, Mapping):
        kind = f"a {type(content).__name__}"
        if isinstance(content, (list, tuple)):
            kind += f" of {len(content)}"
        raise _NoTensors(f"holds {kind}, not tensors by name (a state dict)")
    if content and all(_is_tensor(value) for value in content.values()):
        return content
    found = [key for key, value in content.items() if isinstance(value, Mapping) and _holds_tensors(value)]
    known = [key for key in _KEYS if key in found]
    if not known and len(found) != 1:
        contents = ", ".join(f"{key} ({type(value).__name__})" for key, value in list(content.items())[:8])
        raise _NoTensors(f"holds {contents or 'nothing'}: no tensors by name, or several sets of them")
    chosen = (known or found)[0]
    if len(found) > 1:
        say(f"holds {', '.join(map(str, found))}: {chosen} is taken")
    return _choose_tensors(content[chosen], say)


def _holds_tensors(value):
    if isinstance(value, Mapping):
        return any(_holds_tensors(item) for item in value.values())
    return _is_tensor(value)


def _is_tensor(value):
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _to_array(tensor):
    return tensor if isinstance(tensor, np.ndarray) else tensor.float().numpy()


def _read_torch(path):
    import torch

    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_TORCH:
        raise ImportError(
            f"torch {torch.__version__} runs code that a crafted file holds; 2.6 or newer is needed"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_npz(path):
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):  # of a .npy under another name
        return content
    with content as file:
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


def run(args: argparse.Namespace) -> None:
    """Converts what the command line says."""
    tensors = read_tensors(args.weights, say=lambda remark: print(f"note: {remark}", file=sys.stderr))
    params = from_torch.convert(args.model, tensors)
    checkpoint.save_params(args.out, params, checkpoint.ModelSpec(args.model, {}))
    print(f"{args.model}: wrote {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    return command_line.run(make_parser("python -m stvsr_jax.convert"), run, argv)


if __name__ == "__main__":
    sys.exit(main())
