"""Both networks against reference outputs and gradients of the published ones (tests/parity).

The weights are regenerated from the tensors' names by the rule of tests/parity/README.md.
"""

import pathlib
import zlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.models import from_torch

PARITY = pathlib.Path(__file__).parents[1] / "parity"


def published_tensors(name):
    """Returns published tensor name -> float32 array, PyTorch layouts."""
    tensors = {}
    for line in (PARITY / f"{name}.names.txt").read_text().splitlines():
        tensor, shape = line.split()
        tensors[tensor] = _weight(tensor, tuple(int(n) for n in shape.split("x")))
    return tensors


def _weight(name, shape):
    z = np.random.default_rng(zlib.crc32(f"shared0:{name}".encode())).standard_normal(shape)
    fan = np.prod(shape[1:])
    if name.endswith(".bias"):
        scale = 0.5 if "conv_offset_mask" in name else 0.05 if "imnet" in name else 0.02
    elif name == "flow_imnet.net.3.weight":
        scale = 3.0 / np.sqrt(fan)
    elif name == "encode_imnet.net.4.weight":
        scale = 0.3 / np.sqrt(fan)
    elif "imnet" in name:
        scale = 0.6 / fan if ".net.0." in name else 1 / np.sqrt(fan) / 30
    elif "conv_offset_mask" in name:
        scale = 4.0 / np.sqrt(fan)
    elif "feature_extraction" in name or "recon_trunk" in name:
        scale = 0.35 * np.sqrt(2 / fan)
    else:
        scale = np.sqrt(1.6 / fan)
    return (z * scale).astype(np.float32)


@pytest.fixture(scope="module", params=["zooming_slowmo", "videoinr"])
def parity(request):
    """Returns the fixture, the output, the loss and the gradients by published tensor name."""
    name = request.param
    fixture = np.load(PARITY / f"{name}.npz")
    model = models.build(name)
    params = from_torch.convert(name, published_tensors(name))
    frames = fixture["input"].astype(np.float32) / 255

    def loss_fn(params, frames):
        kwargs = {}
        args = ()
        if name == "videoinr":
            args = (jnp.asarray(fixture["times"]),)
            kwargs = {"out_size": tuple(int(n) for n in fixture["size"])}
        out, state = model.apply({"params": params}, frames, *args, **kwargs, mutable="intermediates")
        return jnp.sum(jnp.sqrt((out - 0.5) ** 2 + 1e-6)), (out, state)

    (loss, (out, state)), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params, frames)
    flat = flax.traverse_util.flatten_dict(jax.tree.map(np.asarray, grads))
    used, by_name = {}, {}
    for tensor, path in from_torch.tensor_map(name):
        index = used.get(path, 0)
        used[path] = index + 1
        stacked = "blocks" in path
        by_name[tensor] = flat[path][index] if stacked else flat[path]
    lstm = state["intermediates"]["encoder"]["conv_lstm_output"][0]
    return name, fixture, np.asarray(out), float(loss), by_name, np.asarray(lstm)


def relative_l2(value, reference):
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


def test_output_equals_published_network(parity):
    _, fixture, out, loss, _, _ = parity
    error = relative_l2(out, fixture["output"])
    print(f"relative L2 error of the output: {error:.2e}")
    assert error <= 1e-5
    np.testing.assert_allclose(loss, fixture["loss"], rtol=1e-5)


def test_conv_lstm_equals_published_network(parity):
    _, fixture, _, _, _, lstm = parity
    assert relative_l2(lstm[-1:], fixture["convblstm"]) <= 1e-5


def test_gradient_norms_equal_published_network(parity):
    _, fixture, _, _, grads, _ = parity
    assert set(fixture["grad_names"]) == set(grads)
    norms = np.array([np.linalg.norm(grads[n]) for n in fixture["grad_names"]])
    error = np.abs(norms / fixture["grad_norms"] - 1)
    worst = fixture["grad_names"][error.argmax()]
    print(f"largest relative error of a gradient norm: {error.max():.2e} ({worst})")
    assert error.max() <= 2e-3
