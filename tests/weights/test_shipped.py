"""What ships with the package is whole, small enough, and known to the installer."""

import pathlib
import tomllib

import jax
import numpy as np
import pytest
import safetensors.numpy

from stvsr_jax.weights import card, files, shipped, sources

SHIPPED = shipped.list_names()
MAX_BYTES = 75_000_000  # of all sets together; every version stays in the repository's history


@pytest.mark.parametrize("name", SHIPPED)
def test_set_is_whole(name):
    layout = files.layout_of(shipped.FOLDER, name)
    files.read(layout)  # digest, names and shapes; the last two are taken for granted when it is used
    restored = sources.load(name)
    leaves = jax.tree.leaves(restored.params)
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in leaves)
    stored = safetensors.numpy.load_file(layout.params)
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}
    description = files.read_description(layout.description)
    assert description.name == name
    card.check_facts(description.facts)
    assert layout.card.read_text() == card.render(description)


def test_all_sets_together_are_small():
    assert sum(path.stat().st_size for path in shipped.FOLDER.glob("*.safetensors")) <= MAX_BYTES


def test_every_set_is_complete():
    others = {path.stem for path in shipped.FOLDER.iterdir() if path.suffix in (".json", ".md")}
    assert others == set(SHIPPED)


def test_the_installer_takes_the_files_of_a_set():
    project = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["stvsr_jax.weights"]
    layout = files.layout_of(shipped.FOLDER, "any")
    for path in (layout.params, layout.description, layout.card):
        assert any(pathlib.PurePath(path.name).match(pattern) for pattern in patterns), path
