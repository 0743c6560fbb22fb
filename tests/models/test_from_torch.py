"""Published tensors to parameters: layouts, stacking, and every wrong tensor by name."""

import pathlib
import zlib

import flax.traverse_util
import jax
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.models import from_torch

NAMES = pathlib.Path(__file__).parents[1] / "parity"


@pytest.fixture(scope="module")
def shapes():
    """Returns network name -> path -> shape; traced once for the whole file."""
    return {name: from_torch.published_shapes(name) for name in models.MODELS}


@pytest.fixture(params=sorted(models.MODELS))
def published(request, shapes, monkeypatch):
    """Returns (network name, its published tensors; all zeros, which take no memory)."""
    monkeypatch.setattr(from_torch, "published_shapes", shapes.get)
    return request.param, zero_tensors(request.param)


@pytest.fixture
def slowmo(shapes, monkeypatch):
    monkeypatch.setattr(from_torch, "published_shapes", shapes.get)
    return zero_tensors("zooming_slowmo")


def zero_tensors(name):
    tensors = {}
    for line in (NAMES / f"{name}.names.txt").read_text().splitlines():
        tensor, shape = line.split()
        tensors[tensor] = np.broadcast_to(np.float32(0), [int(n) for n in shape.split("x")])
    return tensors


def numbered(tensors, name):
    """Returns a copy in which one tensor holds distinct values of its own."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(tensors[name].shape).astype(np.float32)
    return tensors | {name: values}, values


def test_converted_parameters_have_the_shapes_of_init(published, shapes):
    name, tensors = published
    params = flax.traverse_util.flatten_dict(from_torch.convert(name, tensors))
    assert {path: value.shape for path, value in params.items()} == {
        path: leaf.shape for path, leaf in shapes[name].items()
    }
    assert {value.dtype for value in params.values()} == {np.dtype(np.float32)}


def test_every_published_tensor_is_mapped_once(published):
    name, tensors = published
    sources = [source for source, _ in from_torch.tensor_map(name)]
    assert len(sources) == len(set(sources))
    assert set(sources) == set(tensors) - models.contract_of(name).published_unused


def test_convolution_kernels_become_rows_columns_in_out(slowmo):
    tensors, values = numbered(slowmo, "upconv1.weight")  # [out, in, kh, kw]
    kernel = from_torch.convert("zooming_slowmo", tensors)["up1"]["kernel"]
    assert kernel.shape == (3, 3, 64, 256)
    for ky, kx, i, o in [(0, 1, 2, 3), (2, 0, 63, 255), (1, 2, 5, 100)]:
        assert kernel[ky, kx, i, o] == values[o, i, ky, kx]


def test_residual_blocks_are_stacked_in_order(slowmo):
    tensors, values = numbered(slowmo, "recon_trunk.11.conv2.weight")
    kernel = from_torch.convert("zooming_slowmo", tensors)["encoder"]["back"]["blocks"]["conv2"]["kernel"]
    assert kernel.shape == (40, 3, 3, 64, 64)
    assert kernel[11, 0, 2, 7, 9] == values[9, 7, 0, 2]
    assert not kernel[:11].any() and not kernel[12:].any()


def test_linear_weights_are_transposed(shapes, monkeypatch):
    monkeypatch.setattr(from_torch, "published_shapes", shapes.get)
    tensors, values = numbered(zero_tensors("videoinr"), "encode_imnet.net.0.linear.weight")
    colour = from_torch.convert("videoinr", tensors)["colour"]
    assert colour["kernel0"].shape == (525, 64)
    np.testing.assert_array_equal(colour["kernel0"], values.T)


def test_unused_tensors_of_videoinr_are_optional(shapes, monkeypatch):
    monkeypatch.setattr(from_torch, "published_shapes", shapes.get)
    tensors = zero_tensors("videoinr")
    unused = [
        f"{layer}.{part}"
        for layer in ("upconv1", "upconv2", "HRconv", "conv_last")
        for part in ("weight", "bias")
    ]
    assert set(unused) <= set(tensors) and sum(tensors[name].size for name in unused) == 334_083
    for name in unused:
        del tensors[name]
    with_none = from_torch.convert("videoinr", tensors)
    with_one = from_torch.convert("videoinr", tensors | {"HRconv.bias": np.zeros(64)})
    assert jax.tree.structure(with_none) == jax.tree.structure(with_one)


def test_missing_and_leftover_tensors_are_named(published):
    name, tensors = published
    del tensors["conv_first.bias"]
    tensors["module.extra.weight"] = np.zeros(1)
    with pytest.raises(ValueError) as error:
        from_torch.convert(name, tensors)
    message = str(error.value)
    assert name in message
    assert "missing: conv_first.bias" in message and "left over: module.extra.weight" in message


def test_weights_of_the_other_network_are_refused(shapes, monkeypatch):
    monkeypatch.setattr(from_torch, "published_shapes", shapes.get)
    with pytest.raises(ValueError, match="left over: .*imnet.*and 18 more"):
        from_torch.convert("zooming_slowmo", zero_tensors("videoinr"))
    with pytest.raises(ValueError, match="missing: .*imnet.*and 18 more"):
        from_torch.convert("videoinr", zero_tensors("zooming_slowmo"))


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        ("conv_first.weight", (64, 3, 3, 1)),
        ("conv_first.weight", (3, 64, 3, 3)),
        ("conv_last.bias", (4,)),
        ("recon_trunk.3.conv1.weight", (64, 64, 1, 1)),
        ("recon_trunk.0.conv1.bias", (40, 64)),
        pytest.param(
            "conv_last.bias",
            (),
        ),
    ],
)
def test_misshapen_tensor_is_named_with_its_shape(slowmo, tensor, shape):
    with pytest.raises(ValueError) as error:
        from_torch.convert("zooming_slowmo", slowmo | {tensor: np.zeros(shape, np.float32)})
    assert f"{tensor} {shape}" in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("tensor", ["HRconv.weight", "recon_trunk.39.conv2.bias"])
def test_tensor_that_is_not_finite_is_named(slowmo, tensor, bad):
    values = np.zeros(slowmo[tensor].shape, np.float32)
    values.flat[-1] = bad
    with pytest.raises(ValueError, match=rf"{tensor} \(not finite\)"):
        from_torch.convert("zooming_slowmo", slowmo | {tensor: values})


def test_every_wrong_tensor_is_named_at_once(slowmo):
    wrong = {"upconv1.bias": np.zeros(3, np.float32), "upconv2.bias": np.full(256, np.nan, np.float32)}
    with pytest.raises(ValueError, match=r"upconv1.bias \(3,\).*upconv2.bias \(not finite\)"):
        from_torch.convert("zooming_slowmo", slowmo | wrong)


def test_unknown_network_is_named():
    with pytest.raises(ValueError, match="'edvr'"):
        from_torch.convert("edvr", {})
