"""Weights by name, path and address."""

import http.server
import pathlib
import shutil
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import checkpoint
from stvsr_jax.inference.predictor import Predictor
from stvsr_jax.models.spec import ModelSpec
from stvsr_jax.runtime import sharding
from stvsr_jax.weights import files, hub, sources
from stvsr_jax.weights import shipped as sets


def assert_same(params, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-7), params, expected)


@pytest.fixture
def small(tmp_path, write_set):
    """Return a folder of one set, 'small', and its parameters."""
    return tmp_path / "weights", write_set(tmp_path / "weights", "small", "zooming_slowmo")


def test_shipped_sets_are_found_by_name(shipped):
    shipped("videoinr", "video")
    assert sets.list_names() == ["video", "videoinr"]
    assert sources.load("video").model_name == "zooming_slowmo"
    assert sources.load("videoinr").model_name == "videoinr"


def test_only_the_network_of_a_shipped_set_is_taken_for_granted(shipped, small, monkeypatch):
    shipped("video")
    traced = []
    monkeypatch.setattr(files, "check_fits", lambda arrays, spec, where: traced.append(where))
    sources.load("video")
    assert traced == []
    sources.load(small[0])
    assert traced == [str(small[0] / "small.safetensors")]


def test_sets_are_found_by_file_and_by_folder(small, tmp_path, write_set):
    folder, params = small
    for source in (folder, str(folder), folder / "small.safetensors"):
        assert_same(sources.load(source).params, params)
    write_set(folder, "other", "videoinr")
    with pytest.raises(ValueError, match=r"several sets.*other\.safetensors.*small\.safetensors"):
        sources.load(folder)
    assert sources.load(folder / "small.safetensors").model_name == "zooming_slowmo"


def test_hugging_face_folders_are_read_as_they_are(small, tmp_path):
    folder, params = small
    hub.export(files.layout_of(folder, "small"), tmp_path / "hf", overwrite=False)
    for source in (tmp_path / "hf", tmp_path / "hf" / "model.safetensors"):
        assert_same(sources.load(source).params, params)


def test_training_runs_and_converted_weights_are_found(run, params, tmp_path, linear_config):
    assert sources.load(run).step == 4
    checkpoint.save_params(tmp_path / "converted", params, ModelSpec("linear", {"features": 4}))
    assert_same(sources.load(str(tmp_path / "converted")).params, params)


def test_what_does_not_exist_is_named_with_what_does(shipped, tmp_path):
    shipped("video")
    message = "weights zooming_slowmo: there is no such file or folder, and no such set in this package .it has: video"
    with pytest.raises(ValueError, match=message):
        sources.load("zooming_slowmo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no checkpoint"):
        sources.load(tmp_path / "empty")


def test_training_starts_from_a_set_of_its_own_network_only(small):
    folder, params = small
    spec = ModelSpec("zooming_slowmo", {"features": 8, "front_blocks": 1, "back_blocks": 1, "groups": 2})
    on = sharding.replicated(sharding.make_mesh())
    loaded = sources.load_params(folder, spec, on)
    assert_same(loaded, params)
    assert all(leaf.sharding == on for leaf in jax.tree.leaves(loaded))
    with pytest.raises(ValueError, match=r"another size: back_blocks=1 \(here 40\)"):
        sources.load_params(folder, ModelSpec("zooming_slowmo", dict(spec.fields, back_blocks=40)), on)
    with pytest.raises(ValueError, match="of model zooming_slowmo, not of videoinr"):
        sources.load_params(folder, ModelSpec("videoinr", {}), on)


def test_a_predictor_is_made_of_a_set_as_of_its_parameters(small):
    folder, params = small
    rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), params)
    model = ModelSpec("zooming_slowmo", sources.load(folder).model_kwargs).build()
    network = Predictor.from_pretrained(folder, ensemble=True)
    assert network.identity == Predictor("zooming_slowmo", model, rounded, ensemble=True).identity
    bfloat16 = Predictor.from_pretrained(str(folder), dtype=jnp.bfloat16)
    assert bfloat16.identity == Predictor("zooming_slowmo", model.clone(dtype=jnp.bfloat16), rounded).identity


def test_hub_addresses_that_are_none_are_refused():
    for address in ("hf://user", "hf://user/repo/more", "hf:///repo", "hf://"):
        with pytest.raises(ValueError, match="is not of the form hf://USER/REPO"):
            sources.load(address)


def test_the_hub_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'stvsr-jax\[hub\]'"):
        sources.load("hf://user/repo")


def test_hub_addresses_name_repository_and_revision(small, tmp_path, monkeypatch):
    folder, params = small
    hub.export(files.layout_of(folder, "small"), tmp_path / "hf", overwrite=False)
    asked = []

    def download(repository, file, *, revision):
        asked.append((repository, file, revision))
        if repository == "user/none":
            raise OSError("404 Client Error.\n\nRepository Not Found for url")
        return str(tmp_path / "hf" / file)

    module = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert_same(sources.load("hf://user/repo@v1").params, params)
    assert set(asked) == {
        ("user/repo", file, "v1") for file in ("model.safetensors", "config.json", "README.md")
    }
    with pytest.raises(ValueError, match=r"hf://user/none: .* cannot be had: OSError: 404 Client Error\.$"):
        sources.load("hf://user/none")


class _Hub(http.server.SimpleHTTPRequestHandler):
    """Answers as the hub does: a file's commit and digest are in its header."""

    def send_head(self):
        file = pathlib.Path(self.directory) / pathlib.Path(self.path).name
        if not self.path.startswith("/user/repo/resolve/main/") or not file.is_file():
            self.send_error(404)
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.send_header("ETag", f'"{file.stat().st_size}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        return file.open("rb")

    def log_message(self, *args):
        pass


def test_the_hub_library_fetches_a_set(small, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="an extra")
    from huggingface_hub import constants

    folder, params = small
    hub.export(files.layout_of(folder, "small"), tmp_path / "hf", overwrite=False)

    def handle(*args):
        return _Hub(*args, directory=str(tmp_path / "hf"))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handle)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    try:
        assert_same(sources.load("hf://user/repo").params, params)
        shutil.rmtree(tmp_path / "hf")
        with pytest.raises(ValueError, match="hf://user/none: .* cannot be had"):
            sources.load("hf://user/none")
    finally:
        server.shutdown()
        server.server_close()
