"""What the digest of parameters depends on."""

import numpy as np

from stvsr_jax.weights.digest import params_digest


def test_digest_depends_on_names_shapes_types_and_values():
    params = {"b": np.arange(6, dtype=np.float32), "a": {"kernel": np.ones((2, 3), np.float32)}}
    digests = [
        params_digest(tree)
        for tree in (
            params,
            {**params, "b": params["b"] + 1},
            {**params, "b": params["b"].reshape(2, 3)},
            {**params, "b": params["b"].view(np.int32)},
            {"c": params["b"], "a": params["a"]},
        )
    ]
    assert len(set(digests)) == 5
    assert digests[0] == params_digest({"a": dict(params["a"]), "b": params["b"].copy()})
