"""Sets of weights on disk: what is written can be read, and what is damaged or does not fit is named."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from stvsr_jax.models.spec import ModelSpec
from stvsr_jax.weights import files


@pytest.fixture
def layout(tmp_path, write_set):
    write_set(tmp_path, "small", "zooming_slowmo")
    return files.layout_of(tmp_path, "small")


def rewrite(layout, **changes):
    """Changes keys of a description; None removes one."""
    content = json.loads(layout.description.read_text()) | changes
    layout.description.write_text(json.dumps({key: v for key, v in content.items() if v is not None}))


def replace_params(layout, arrays):
    """Writes other parameters, with their digest."""
    content = safetensors.numpy.save(arrays)
    layout.params.write_bytes(content)
    rewrite(layout, sha256=hashlib.sha256(content).hexdigest())


def test_parameters_come_back_as_float32_rounded_to_float16(tmp_path, write_set):
    written = files.flatten(write_set(tmp_path, "small", "videoinr"))
    restored = files.read(files.layout_of(tmp_path, "small"))
    read = files.flatten(restored.params)
    assert set(read) == set(written)
    for name, array in read.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, written[name].astype(np.float16).astype(np.float32), name)
    assert (restored.model_name, restored.step) == ("videoinr", 7)
    assert restored.model_kwargs["hidden"] == [8, 8, 8]
    stored = safetensors.numpy.load_file(tmp_path / "small.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}


def test_float32_is_kept_exactly(tmp_path, write_set):
    params = write_set(tmp_path, "small", "zooming_slowmo")
    content = files.encode(params, "float32")
    for name, array in safetensors.numpy.load(content).items():
        np.testing.assert_array_equal(array, files.flatten(params)[name])


def test_description_holds_every_size_of_the_network(layout):
    """A default that changes later does not change what the weights belong to."""
    description = files.read_description(layout.description)
    assert description.fields == {"features": 8, "front_blocks": 1, "back_blocks": 1, "groups": 2}
    assert description.sha256 == hashlib.sha256(layout.params.read_bytes()).hexdigest()
    sizes = [array.size for array in safetensors.numpy.load_file(layout.params).values()]
    assert description.parameters == sum(sizes)


def test_one_changed_byte_is_found(layout):
    content = bytearray(layout.params.read_bytes())
    content[-100] ^= 1
    layout.params.write_bytes(content)
    with pytest.raises(ValueError, match=r"small\.safetensors has SHA-256 .* damaged or of another set"):
        files.read(layout)


def test_a_pointer_of_git_lfs_is_named(layout):
    layout.params.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ValueError, match="Git LFS pointer: run 'git lfs pull'"):
        files.read(layout)


def test_what_is_no_safetensors_file_is_named(layout):
    layout.params.write_bytes(b"text")
    rewrite(layout, sha256=hashlib.sha256(b"text").hexdigest())
    with pytest.raises(ValueError, match=r"small\.safetensors cannot be read"):
        files.read(layout)


def test_missing_leftover_and_misshapen_parameters_are_named(layout):
    arrays = safetensors.numpy.load_file(layout.params)
    arrays["extra"] = arrays.pop("up1/bias")
    arrays["to_rgb/bias"] = np.zeros(4, np.float16)
    replace_params(layout, arrays)
    with pytest.raises(ValueError) as caught:
        files.read(layout)
    for part in ("missing: up1/bias", "left over: extra", r"to_rgb/bias (4,) (expected (3,))"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, this version of stvsr_jax reads format 1"),
        ({"format": None}, "describes no weights of this project"),
        ({"network": None}, "the keys \\['network'\\] are missing or unknown"),
        ({"other": 1}, "the keys \\['other'\\] are missing or unknown"),
        ({"network": "edvr"}, "model 'edvr' is not one of"),
        ({"fields": {"depth": 3}}, "has no field \\['depth'\\]"),
    ],
)
def test_descriptions_that_do_not_fit_are_named(layout, changes, message):
    rewrite(layout, **changes)
    with pytest.raises(ValueError, match=message):
        files.read(layout)


def test_missing_files_are_named(layout):
    text = layout.description.read_text()
    layout.description.unlink()
    with pytest.raises(ValueError, match=r"small\.json is missing"):
        files.read(layout)
    layout.description.write_text(text[:-20])
    with pytest.raises(ValueError, match=r"small\.json cannot be read"):
        files.read(layout)
    layout.description.write_text(text)
    layout.params.unlink()
    with pytest.raises(ValueError, match=r"small\.safetensors is missing"):
        files.read(layout)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "float32"), (1e5, "float16")])
def test_parameters_that_a_file_cannot_hold_are_refused(value, dtype):
    params = {"a": {"kernel": np.array([0, value], np.float32)}, "b": np.ones(1, np.float32)}
    with pytest.raises(ValueError, match=f"not finite in {dtype}: a/kernel$"):
        files.encode(params, dtype)


def test_parameters_of_another_network_are_refused(layout):
    content = layout.params.read_bytes()
    with pytest.raises(ValueError, match="weights for other: the parameters are not those of zooming_slowmo"):
        files.describe(content, name="other", spec=ModelSpec("zooming_slowmo", {}), dtype="float16", facts={})


def test_a_set_is_replaced_only_on_request(layout, write_set, tmp_path):
    with pytest.raises(
        ValueError, match=r"small\.safetensors, .*small\.json, .*small\.md exists; --overwrite"
    ):
        write_set(tmp_path, "small", "zooming_slowmo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.json", "small.md", "small.safetensors"]
