"""What a function is made of, as text that is the same in every process: its name, its closure, and their code.

Two functions with the same text compute the same, provided that this package and the libraries are the same. For code
from elsewhere, such as a network of one's own, the text holds a digest of its files.
"""

import dataclasses
import functools
import hashlib
import pathlib
import sys
import time
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

# Top-level packages whose versions are known, and this one.
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes")
_KNOWN = {"stvsr_jax", "builtins", *LIBRARIES, *sys.stdlib_module_names} - {"__main__"}
_IMPORTED = time.time()
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, np.dtype, type(...))


def describe(value: Any) -> str:
    """Returns the text of a function, or of anything that one may close over.

    Raises:
      ValueError: something in it differs in each process, is an array on a device, which should be an argument, or has
        a source file that is missing or was changed since it was read.
    """
    return _Walk().describe(value, "it")


class _Walk:
    """One description: functions and objects that were met before are numbered, since they may contain themselves."""

    def __init__(self):
        self._met = {}

    def describe(self, value, where):
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__}:{value!r}"
        if isinstance(value, (type, types.ModuleType)):
            return f"{_full_name(value)}{_digest_of_foreign(value)}"
        if isinstance(value, np.ndarray):
            return f"array:{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
        if isinstance(value, jax.Array):
            raise ValueError(f"{where} is an array")
        if id(value) in self._met:
            return f"#{self._met[id(value)][0]}"
        self._met[id(value)] = len(self._met), value  # kept, so that its id stays its own
        kind, parts = _take_apart(value, where)
        inner = ", ".join(
            f"{name}={self.describe(part, f'{name} of {where}')}" for name, part in parts.items()
        )
        return f"{kind}({inner})"


def _take_apart(value, where):
    """Returns a text for the kind of value, and the parts that make up the rest of it."""
    kind = f"{_full_name(type(value))}{_digest_of_foreign(type(value))}"
    if isinstance(value, types.FunctionType):
        return (
            f"{_full_name(value)}:{value.__code__.co_firstlineno}{_digest_of_foreign(value)}",
            _parts_of_function(value),
        )
    if isinstance(value, functools.partial):
        return kind, {"function": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, types.MethodType):
        return kind, {"function": value.__func__, "self": value.__self__}
    if isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
        return f"{kind}:{getattr(value, '__module__', '')}.{value.__name__}", {}
    if isinstance(value, jax.sharding.Mesh):
        return f"{kind}:{value.abstract_mesh!r}", {"devices": [device.id for device in value.devices.flat]}
    if isinstance(value, (tuple, list)):
        return kind, dict(enumerate(value))
    if isinstance(value, (set, frozenset)):
        return kind, dict(enumerate(sorted(value, key=repr)))
    if isinstance(value, Mapping):
        return kind, {repr(key): part for key, part in value.items()} | {"keys": list(value)}
    if hasattr(value, "__wrapped__"):  # a jitted function
        return kind, {"wrapped": value.__wrapped__}
    if dataclasses.is_dataclass(value):
        return kind, {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    text = repr(value)
    if type(value).__repr__ is not object.__repr__ and " at 0x" not in text:
        return f"{kind}:{text}", {}
    if hasattr(value, "__dict__"):
        return kind, vars(value)
    raise ValueError(f"{where}, {text}, differs in each process")


def _parts_of_function(function: Callable[..., Any]):
    names, cells = function.__code__.co_freevars, function.__closure__ or ()
    closure = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            closure[name] = cell.cell_contents
        except ValueError:  # not filled yet
            closure[name] = None
    defaults = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
    return closure | {name: value for name, value in defaults.items() if value}


def _full_name(value):
    if isinstance(value, types.ModuleType):
        return value.__name__
    return f"{value.__module__}.{value.__qualname__}"


def _digest_of_foreign(value):
    """Returns a digest of the code that a function, class or module is part of; '' if that is known by its version."""
    module = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    package = module.partition(".")[0]
    if package in _KNOWN:
        return ""
    files = {
        file
        for name, loaded in list(sys.modules.items())
        if name.partition(".")[0] == package and (file := getattr(loaded, "__file__", None))
    }
    files |= {code.co_filename for code in _codes(value)}
    digest = hashlib.sha256()
    for file in sorted(files):
        try:
            digest.update(pathlib.Path(file).read_bytes())
            is_changed = pathlib.Path(file).stat().st_mtime > _IMPORTED
        except OSError as error:
            raise ValueError(f"{_full_name(value)} is from {file}, which is no file") from error
        if is_changed:
            raise ValueError(f"{file} was changed after this process had started")
    if not files:
        raise ValueError(f"{_full_name(value)} is from no file")
    return f"[{digest.hexdigest()}]"


def _codes(value):
    """Returns the code of a function, or of a class's methods."""
    found = list(vars(value).values()) if isinstance(value, type) else [value]
    return [
        f.__code__
        for f in found
        if isinstance(f, types.FunctionType) and "<" not in f.__code__.co_filename[:1]
    ]
