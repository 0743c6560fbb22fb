"""Every kind of weights file, every wrong one, and the command line."""

import pathlib
import pickle
import re
import sys
import types

import flax.traverse_util
import numpy as np
import pytest

from stvsr_jax import checkpoint, convert
from stvsr_jax.models import from_torch

PARITY = pathlib.Path(__file__).with_name("parity")
TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.bias": np.float32([0.5, -1])}


def assert_same(found, expected=TENSORS):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert isinstance(found[name], np.ndarray)
        np.testing.assert_array_equal(found[name], value)


def published_shapes(name):
    lines = (line.split() for line in (PARITY / f"{name}.names.txt").read_text().splitlines())
    return {tensor: tuple(int(n) for n in shape.split("x")) for tensor, shape in lines}


def save_npz(path, tensors=TENSORS):
    np.savez(path, **tensors)
    return path


def test_npz(tmp_path):
    assert_same(convert.read_tensors(save_npz(tmp_path / "w.npz")))


def test_suffix_in_capitals(tmp_path):
    save_npz(tmp_path / "w.npz").rename(tmp_path / "w.NPZ")
    assert_same(convert.read_tensors(str(tmp_path / "w.NPZ")))


def test_safetensors(tmp_path):
    numpy_api = pytest.importorskip("safetensors.numpy")
    numpy_api.save_file(TENSORS, tmp_path / "w.safetensors")
    assert_same(convert.read_tensors(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin"])
@pytest.mark.parametrize("under", [None, "state_dict", "params", "model"])
def test_pytorch(tmp_path, suffix, under):
    torch = pytest.importorskip("torch")
    content = {name: torch.from_numpy(value) for name, value in TENSORS.items()}
    torch.save({under: content, "epoch": 3} if under else content, tmp_path / f"w{suffix}")
    assert_same(convert.read_tensors(tmp_path / f"w{suffix}"))


@pytest.mark.parametrize("under", ["params_ema", "net", "model_state_dict", "generator"])
def test_pytorch_under_other_keys(tmp_path, under):
    torch = pytest.importorskip("torch")
    content = {name: torch.from_numpy(value) for name, value in TENSORS.items()}
    torch.save({"epoch": 3, under: content, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
    assert_same(convert.read_tensors(tmp_path / "w.pth", say=pytest.fail))


@pytest.mark.parametrize("order", [("params", "params_ema"), ("params_ema", "params")])
def test_average_is_taken_before_the_weights_and_said(tmp_path, order):
    torch = pytest.importorskip("torch")
    values = {"params": torch.zeros(2), "params_ema": torch.ones(2)}
    torch.save({key: {"a": values[key]} for key in order}, tmp_path / "w.pth")
    said = []
    found = convert.read_tensors(tmp_path / "w.pth", say=said.append)
    np.testing.assert_array_equal(found["a"], [1, 1])
    assert said == [f"{tmp_path / 'w.pth'} holds {order[0]}, {order[1]}: params_ema is taken"]


def test_state_dict_below_another_key(tmp_path):
    torch = pytest.importorskip("torch")
    content = {name: torch.from_numpy(value) for name, value in TENSORS.items()}
    torch.save({"model": {"state_dict": content, "version": 1}}, tmp_path / "w.pth")
    assert_same(convert.read_tensors(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda torch: [torch.ones(2)] * 3, "it holds a list of 3, not tensors by name"),
        (lambda torch: torch.ones(2), "it holds a Tensor, not tensors by name"),
        (
            lambda torch: {"epoch": 3, "name": "x"},
            r"it holds epoch \(int\), name \(str\): no tensors by name",
        ),
        (lambda torch: {}, "it holds nothing: no tensors by name"),
        (lambda torch: {"a": torch.ones(2), "epoch": 3}, r"it holds a \(Tensor\), epoch \(int\): no tensors"),
        (
            lambda torch: {"first": {"a": torch.ones(1)}, "second": {"a": torch.ones(1)}},
            r"it holds first \(dict\), second \(dict\): .*several sets",
        ),
    ],
)
def test_pytorch_files_without_a_state_dict_say_what_they_hold(tmp_path, content, message):
    torch = pytest.importorskip("torch")
    torch.save(content(torch), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"w.pth cannot be read: {message}"):
        convert.read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("version", ["2.5.1", "1.13.0+cu117", "2.4.0a0+git12"])
def test_torch_that_runs_code_of_files_is_refused(tmp_path, monkeypatch, version):
    torch = types.ModuleType("torch")
    torch.__version__ = version
    torch.load = lambda *args, **kwargs: pytest.fail("the file was loaded")
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=rf"too old \(torch {re.escape(version)} .*2.6 or newer .*\): pip install"
    ):
        convert.read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "3.0.0"])
def test_newer_torch_is_taken(tmp_path, monkeypatch, version):
    torch = types.ModuleType("torch")
    torch.__version__ = version
    torch.load = lambda *args, weights_only, **kwargs: dict(TENSORS) if weights_only else None
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "w.pth").write_bytes(b"x")
    assert_same(convert.read_tensors(tmp_path / "w.pth"))


def test_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name the file of weights in it"):
        convert.read_tensors(tmp_path)


def test_pytorch_half_precision_becomes_float32(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "w.pth")
    found = convert.read_tensors(tmp_path / "w.pth")["a"]
    assert found.dtype == np.float32


def test_pytorch_file_of_something_else_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save([torch.ones(2)], tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth cannot be read"):
        convert.read_tensors(tmp_path / "w.pth")


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("in_archive", [False, True])
def test_pickled_code_is_not_run(tmp_path, in_archive):
    torch = pytest.importorskip("torch")
    victim, file = tmp_path / "victim", tmp_path / "w.pth"
    if in_archive:
        torch.save({"a": Malicious(victim)}, file)
    else:
        file.write_bytes(pickle.dumps({"a": Malicious(victim)}))
    with pytest.raises(ValueError, match="w.pth cannot be read: it holds Python objects") as caught:
        convert.read_tensors(file)
    assert not victim.exists() and "weights_only" not in str(caught.value)


def test_pickled_arrays_in_npz_are_refused(tmp_path):
    victim = tmp_path / "victim"
    np.savez(tmp_path / "w.npz", a=np.array([Malicious(victim)], dtype=object))
    with pytest.raises(ValueError, match="w.npz cannot be read"):
        convert.read_tensors(tmp_path / "w.npz")
    assert not victim.exists()


def test_a_single_array_is_no_state_dict(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "w.npz")
    with pytest.raises(ValueError, match="w.npz cannot be read: it holds a ndarray, not tensors by name"):
        convert.read_tensors(tmp_path / "w.npz")


def test_prefixes_of_data_parallelism_are_removed(tmp_path):
    file = save_npz(tmp_path / "w.npz", {f"module.module.{name}": v for name, v in TENSORS.items()})
    assert_same(convert.read_tensors(file))
    file = save_npz(tmp_path / "v.npz", {"a.module.weight": np.zeros(1)})
    assert_same(convert.read_tensors(file), {"a.module.weight": np.zeros(1)})


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at .*nowhere.pth"):
        convert.read_tensors(tmp_path / "nowhere.pth")


def test_unknown_kind_is_named_with_the_known_ones(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"w.onnx: '.onnx' is not a kind .*'.npz'.*'.pth'.*'.safetensors'"):
        convert.read_tensors(tmp_path / "w.onnx")


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all" * 10])
def test_damaged_file_is_named(tmp_path, suffix, content):
    if suffix != ".npz":
        pytest.importorskip({".pth": "torch", ".safetensors": "safetensors"}[suffix])
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=f"w{suffix} cannot be read"):
        convert.read_tensors(tmp_path / f"w{suffix}")


def test_truncated_npz_is_named(tmp_path):
    file = save_npz(tmp_path / "w.npz")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match="w.npz cannot be read"):
        convert.read_tensors(file)


def test_library_that_is_not_installed_is_named(tmp_path, monkeypatch):
    def read(path):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setitem(convert.READERS, ".pth", read)
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"\(No module named 'torch'\): pip install 'stvsr-jax\[torch\]'"):
        convert.read_tensors(tmp_path / "w.pth")


def test_command_converts_the_published_tensors(tmp_path, capsys, monkeypatch):
    name = "zooming_slowmo"
    tensors = {f"module.{n}": np.zeros(shape, np.float32) for n, shape in published_shapes(name).items()}
    tensors["module.conv_last.bias"] = np.float32([0.1, 0.2, 0.3])
    monkeypatch.setitem(convert.READERS, ".npz", lambda path: tensors)  # 44 MB need not be written to be read
    (tmp_path / "w.npz").touch()
    out = tmp_path / "converted"
    assert convert.main([str(tmp_path / "w.npz"), str(out), "--model", name]) == 0
    assert capsys.readouterr().out == f"{name}: wrote {out}\n"
    restored = checkpoint.load_for_inference(out)
    assert (restored.model_name, restored.model_kwargs, restored.step) == (name, {}, 0)
    flat = flax.traverse_util.flatten_dict(restored.params)
    assert {path: value.shape for path, value in flat.items()} == {
        path: leaf.shape for path, leaf in from_torch.published_shapes(name).items()
    }
    assert sum(value.size for value in flat.values()) == 11_102_771
    np.testing.assert_array_equal(restored.params["to_rgb"]["bias"], np.float32([0.1, 0.2, 0.3]))
    assert convert.main([str(tmp_path / "w.npz"), str(out), "--model", name]) == 2
    assert "already holds a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nowhere.npz", "no weights at"),
        ("w.onnx", "'.onnx' is not a kind"),
        ("empty.npz", "empty.npz cannot be read: it is empty"),
        ("damaged.npz", "damaged.npz cannot be read"),
        ("other.npz", "the tensors are not those of videoinr: missing: .*left over: a.weight, b.bias"),
    ],
)
def test_command_ends_with_one_line_and_code_2(tmp_path, capsys, file, message):
    save_npz(tmp_path / "other.npz")
    (tmp_path / "damaged.npz").write_bytes(b"damaged")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "w.onnx").write_bytes(b"x")
    assert convert.main([str(tmp_path / file), str(tmp_path / "out"), "--model", "videoinr"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert re.search(message, err)
    assert not (tmp_path / "out").exists()


def test_command_refuses_an_unknown_model(capsys):
    assert convert.main(["w.npz", "out", "--model", "edvr"]) == 2
    assert "'edvr' is not one of videoinr, zooming_slowmo" in capsys.readouterr().err
