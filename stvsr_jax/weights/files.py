"""A set of weights on disk: the parameters, the network they belong to, and the card.

    NAME.safetensors   the parameters, usually float16; a name is the path in the tree, joined by "/"
    NAME.json          the network and its sizes, SHA-256 of NAME.safetensors, the facts of the training
    NAME.md            the card, for people; see `card`

Hugging Face's layout holds the same three as model.safetensors, config.json and README.md.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from stvsr_jax.files import replacing
from stvsr_jax.models.spec import ModelSpec, Restored, param_shapes

FORMAT = 1
DTYPES = ("float16", "float32")


@dataclasses.dataclass(frozen=True)
class Description:
    """What NAME.json says.

    Attributes:
      format: version of the file's keys.
      name: of the set.
      network: a key of `models.MODELS`.
      fields: keyword arguments of `models.build` that decide the parameters.
      parameters: how many numbers.
      dtype: of the numbers, one of DTYPES.
      sha256: of the file of parameters, in hexadecimal.
      facts: of the training; see `card.check_facts`.
    """

    format: int
    name: str
    network: str
    fields: dict[str, Any]
    parameters: int
    dtype: str
    sha256: str
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the three files of a set lie."""

    params: pathlib.Path
    description: pathlib.Path
    card: pathlib.Path


def layout_of(folder: pathlib.Path, name: str) -> Layout:
    """Returns the files of the set `name` in a folder."""
    return Layout(*(folder / f"{name}.{suffix}" for suffix in ("safetensors", "json", "md")))


def hub_layout_of(folder: pathlib.Path) -> Layout:
    """Returns the files of a set in Hugging Face's layout."""
    return Layout(*(folder / name for name in ("model.safetensors", "config.json", "README.md")))


def encode(params: Any, dtype: str) -> bytes:
    """Returns the content of NAME.safetensors.

    Args:
      params: the parameter tree.
      dtype: one of DTYPES, to which the parameters are rounded.

    Raises:
      ValueError: a parameter is not finite, or too large for the dtype; or the dtype is unknown.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not one of {DTYPES}")
    arrays, wrong = {}, []
    for name, leaf in flatten(params).items():
        with np.errstate(over="ignore"):  # answered below
            arrays[name] = np.ascontiguousarray(np.asarray(leaf, np.float32).astype(dtype))
        if not np.isfinite(arrays[name]).all():
            wrong.append(name)
    if wrong:
        raise ValueError(f"parameters that are not finite in {dtype}: {_some(wrong)}")
    return safetensors.numpy.save(arrays)


def describe(
    content: bytes, *, name: str, spec: ModelSpec, dtype: str, facts: Mapping[str, Any]
) -> Description:
    """Returns the description of encoded parameters.

    Raises:
      ValueError: they are not those of the network.
    """
    arrays = safetensors.numpy.load(content)
    check_fits(arrays, spec, f"weights for {name}")
    return Description(
        format=FORMAT,
        name=name,
        network=spec.name,
        fields=spec.architecture(),
        parameters=sum(array.size for array in arrays.values()),
        dtype=dtype,
        sha256=hashlib.sha256(content).hexdigest(),
        facts=dict(facts),
    )


def write(layout: Layout, content: bytes, description: Description, card: str, *, overwrite: bool) -> None:
    """Writes the three files of a set; each appears whole.

    Raises:
      ValueError: one of them exists, unless they may be overwritten.
      OSError: they cannot be written.
    """
    parts = {
        layout.params: content,
        layout.description: (json.dumps(dataclasses.asdict(description), indent=2) + "\n").encode(),
        layout.card: card.encode(),
    }
    if existing := [str(path) for path in parts if path.exists() and not overwrite]:
        raise ValueError(f"{', '.join(existing)} exists; --overwrite replaces it")
    layout.params.parent.mkdir(parents=True, exist_ok=True)
    for path, data in parts.items():
        with replacing(path) as draft:
            draft.write_bytes(data)


def read_description(path: pathlib.Path) -> Description:
    """Reads NAME.json.

    Raises:
      ValueError: it is missing, damaged or of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: it says which network the weights beside it belong to"
        ) from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(f"{path} describes no weights of this project: it has no key 'format'")
    if content["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {content['format']}, this version of stvsr_jax reads format {FORMAT}"
        )
    names = {field.name for field in dataclasses.fields(Description)}
    if set(content) != names:
        differing = sorted(set(content) ^ names)
        raise ValueError(f"{path}: the keys {differing} are missing or unknown; known are {sorted(names)}")
    return Description(**content)


def read(layout: Layout, *, is_known: bool = False) -> Restored:
    """Reads a set; its parameters become float32.

    Args:
      layout: of the set.
      is_known: skips the check that the parameters fit the network, which traces it for a second or more. Sets that
        ship are tested, so they need none. Damage is found either way.

    Raises:
      ValueError: a file is missing or damaged, or the parameters are not those of the network.
    """
    description = read_description(layout.description)
    try:
        content = layout.params.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{layout.params} is missing; {layout.description} describes it") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != description.sha256:
        pointer = content.startswith(b"version https://git-lfs")
        reason = (
            "it is a Git LFS pointer: run 'git lfs pull'" if pointer else "it is damaged or of another set"
        )
        raise ValueError(
            f"{layout.params} has SHA-256 {digest[:12]}..., {layout.description.name} says "
            f"{description.sha256[:12]}...: {reason}"
        )
    try:
        arrays = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{layout.params} cannot be read: {error}") from error
    spec = ModelSpec(description.network, description.fields)
    if not is_known:
        check_fits(arrays, spec, str(layout.params))
    params = unflatten({name: array.astype(np.float32) for name, array in arrays.items()})
    return Restored(spec.name, spec.fields, params, description.facts["steps"])


def check_fits(arrays: Mapping[str, np.ndarray], spec: ModelSpec, where: str) -> None:
    """Raises ValueError unless names and shapes are those of the network's parameters; each wrong one is named."""
    expected = {name: leaf.shape for name, leaf in flatten(param_shapes(spec.build())).items()}
    problems = []
    if missing := sorted(set(expected) - set(arrays)):
        problems.append(f"missing: {_some(missing)}")
    if leftover := sorted(set(arrays) - set(expected)):
        problems.append(f"left over: {_some(leftover)}")
    wrong = [
        f"{name} {arrays[name].shape} (expected {shape})"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if wrong:
        problems.append(f"of a wrong shape: {_some(wrong)}")
    if problems:
        raise ValueError(f"{where}: the parameters are not those of {spec.name}: {'; '.join(problems)}")


def flatten(params: Any) -> dict[str, Any]:
    """Returns parameter path, joined by "/", -> array."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameter tree of `flatten`'s result."""
    return flax.traverse_util.unflatten_dict(dict(arrays), sep="/")


def _some(names, limit=8):
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
