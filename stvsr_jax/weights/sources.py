"""Weights by name, path or address: sets that ship with the package, sets on disk, hf://, training runs.

zooming_slowmo          a set in the package
DIR/NAME.safetensors    a set on disk; NAME.json lies beside it
DIR                     a folder of one set, a training run, or converted weights
hf://USER/REPO          a set on the Hugging Face hub; hf://USER/REPO@REVISION for one version of it
gs://BUCKET/RUN         a training run elsewhere
"""

import os
import pathlib
from typing import Any

import jax
from jax.sharding import Sharding

from stvsr_jax.models.spec import ModelSpec, Restored
from stvsr_jax.weights import files, shipped

_HUB = "hf://"


def find_set(source: str | os.PathLike) -> files.Layout | None:
    """Returns the files of the set that a source names, None if it names none; those on the hub are fetched.

    Raises:
      ValueError: the address or the folder is ambiguous, or the hub cannot be reached.
    """
    source = os.fspath(source)
    if source in shipped.list_names():
        return files.layout_of(shipped.FOLDER, source)
    if source.startswith(_HUB):
        return _fetch(source)
    if "://" in source:
        return None
    path = pathlib.Path(source).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        hub_layout = files.hub_layout_of(path.parent)
        return hub_layout if path == hub_layout.params else files.layout_of(path.parent, path.stem)
    if not path.is_dir():
        return None
    found = sorted(path.glob("*.safetensors"))
    if len(found) > 1:
        raise ValueError(f"{path} holds several sets of weights, name one of {[str(file) for file in found]}")
    return find_set(found[0]) if found else None


def check_exists(source: str | os.PathLike) -> None:
    """Raises ValueError if a source is neither a shipped set, nor an address, nor a file or folder."""
    source = os.fspath(source)
    if source in shipped.list_names() or "://" in source or pathlib.Path(source).expanduser().exists():
        return
    names = ", ".join(shipped.list_names()) or "none"
    raise ValueError(
        f"weights {source}: there is no such file or folder, and no such set in this package (it has: {names})"
    )


def load(source: str | os.PathLike, *, weights: str = "ema") -> Restored:
    """Reads a network and its float32 parameters.

    Args:
      source: see the module.
      weights: of a training run, 'ema' or 'raw', as of `checkpoint.load_for_inference`. A set holds one kind.

    Raises:
      ValueError: there is no such source, or it is damaged.
    """
    check_exists(source)
    layout = find_set(source)
    if layout is not None:
        return files.read(layout, is_known=layout.params.parent == shipped.FOLDER)
    from stvsr_jax import checkpoint  # Orbax takes a second to import; sets do not need it

    return checkpoint.load_for_inference(source, weights=weights)


def load_params(source: str | os.PathLike, spec: ModelSpec, sharding: Sharding) -> Any:
    """Reads the parameters that training starts from; a run's average where it has one.

    Raises:
      ValueError: there is no such source, it is damaged, or of another network.
    """
    from stvsr_jax import checkpoint

    check_exists(source)
    layout = find_set(source)
    if layout is None:
        return checkpoint.load_params(source, spec, sharding)
    restored = files.read(layout)
    checkpoint.check_spec(ModelSpec(restored.model_name, restored.model_kwargs), spec, os.fspath(source))
    return jax.device_put(restored.params, sharding)


def _fetch(address):
    """Returns the files of a set on the hub, in the hub's local cache; they are downloaded if they changed."""
    repository, _, revision = address.removeprefix(_HUB).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ValueError(f"{address} is not of the form hf://USER/REPO or hf://USER/REPO@REVISION")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{address} needs the huggingface_hub package: pip install 'stvsr-jax[hub]'"
        ) from error
    remote = files.hub_layout_of(pathlib.Path())
    found = []
    for file in (remote.params, remote.description, remote.card):
        try:
            path = huggingface_hub.hf_hub_download(repository, str(file), revision=revision or None)
        except Exception as error:  # of HTTP, of the hub, of the cache; each of a kind of its own
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{address}: {file} cannot be had: {type(error).__name__}: {reason}") from error
        found.append(pathlib.Path(path))
    return files.Layout(*found)
