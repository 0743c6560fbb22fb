"""The published PyTorch weights as parameters of these networks.

Only the tensors' names and layouts are mapped: convolution kernels OIHW -> HWIO, linear weights
transposed, residual blocks stacked along a leading axis. A leftover, missing or misshapen tensor is
an error.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from stvsr_jax import models
from stvsr_jax.models.spec import param_shapes


def convert(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Maps published tensors to parameters.

    Args:
      name: a key of `models.MODELS`.
      tensors: published tensor name -> array, PyTorch layouts.

    Returns:
      The parameter tree of `models.build(name)`, float32 numpy arrays.

    Raises:
      ValueError: the network has no published weights, or a tensor is left over, missing, of a wrong shape or not
        finite; each is named.
    """
    shapes = published_shapes(name)
    sources: dict[tuple, list[str]] = {}
    for source, path in tensor_map(name):
        sources.setdefault(path, []).append(source)

    expected = {source for names in sources.values() for source in names}
    _check_names(name, set(tensors), expected)

    params, wrong = {}, []
    for path, names in sources.items():
        arrays = [_to_flax_layout(np.asarray(tensors[n], np.float32)) for n in names]
        shape = shapes[path].shape
        stacked = "blocks" in path
        want = shape[1:] if stacked else shape
        wrong += [f"{n} {tensors[n].shape}" for n, a in zip(names, arrays, strict=True) if a.shape != want]
        wrong += [f"{n} (not finite)" for n, a in zip(names, arrays, strict=True) if not np.isfinite(a).all()]
        if not wrong:
            params[path] = np.stack(arrays) if stacked else arrays[0]
    if wrong:
        raise ValueError(f"{name}: tensors of a wrong shape or value: {', '.join(wrong)}")
    return flax.traverse_util.unflatten_dict(params)


def published_shapes(name: str) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
    """Returns path -> shape of the published-size network's parameters, computing nothing."""
    return flax.traverse_util.flatten_dict(param_shapes(models.build(name)))


def tensor_map(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (published tensor name, parameter path); stacked parameters repeat their path in order.

    Raises:
      ValueError: the network has no published weights.
    """
    layers = models.contract_of(name).published_layers
    if layers is None:
        raise ValueError(f"{name} has no published weights")
    for source, path in layers():
        bias = "bias"
        if path[-1].startswith("kernel"):  # SIREN layers: kernel0 and bias0 in one scope
            *scope, kernel = path
            bias = kernel.replace("kernel", "bias")
        else:
            scope, kernel = list(path), "kernel"
        yield f"{source}.weight", (*scope, kernel)
        yield f"{source}.bias", (*scope, bias)


def _to_flax_layout(array):
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def _check_names(name, given, expected):
    problems = []
    if missing := sorted(expected - given):
        problems.append(f"missing: {_some(missing)}")
    if leftover := sorted(given - expected - models.contract_of(name).published_unused):
        problems.append(f"left over: {_some(leftover)}")
    if problems:
        raise ValueError(f"the tensors are not those of {name}: {'; '.join(problems)}")


def _some(names, limit=8):
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
