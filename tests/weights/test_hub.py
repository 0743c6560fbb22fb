"""The folder that is uploaded to the Hugging Face hub."""

import json

import yaml

from stvsr_jax.weights import files, hub


def test_a_set_becomes_a_folder_to_upload(shipped, tmp_path, capsys):
    folder = shipped("zooming_slowmo")
    out = tmp_path / "hf"
    assert hub.main(["zooming_slowmo", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == (folder / "zooming_slowmo.safetensors").read_bytes()
    assert json.loads((out / "config.json").read_text())["network"] == "zooming_slowmo"
    text = (out / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "stvsr_jax"
    assert text.endswith((folder / "zooming_slowmo.md").read_text())
    assert "hf upload USER/REPO" in capsys.readouterr().out
    files.read(files.hub_layout_of(out))

    assert hub.main(["zooming_slowmo", str(out)]) == 2
    assert "exists; --overwrite replaces it" in capsys.readouterr().err
    assert hub.main(["zooming_slowmo", str(out), "--overwrite"]) == 0


def test_what_is_no_set_is_refused(shipped, tmp_path, capsys):
    folder = shipped("zooming_slowmo")
    for source, message in [("none", "no such set"), (tmp_path / "empty", "is no set of weights")]:
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert hub.main([str(source), str(tmp_path / "hf")]) == 2
        assert message in capsys.readouterr().err
    (folder / "zooming_slowmo.safetensors").write_bytes(b"damaged")
    assert hub.main(["zooming_slowmo", str(tmp_path / "hf")]) == 2
    assert "has SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()
