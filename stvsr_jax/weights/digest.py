"""A digest of parameters: the same for the same names, shapes, types and values, wherever they were read from."""

import hashlib
from typing import Any

import jax
import numpy as np


def params_digest(params: Any) -> str:
    """Returns SHA-256 over the names, shapes, types and values of a parameter tree, in hexadecimal."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
