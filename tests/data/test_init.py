"""The package is light until its pipeline is used."""

import subprocess
import sys

import pytest

from stvsr_jax import data


def test_reading_video_imports_neither_the_pipeline_nor_checkpoints():
    code = "import sys, stvsr_jax.inference.command; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "stvsr_jax.inference.job" in loaded
    assert not loaded & {
        "stvsr_jax.data.sources",
        "grain",
        "orbax",
        "orbax.checkpoint",
        "optax",
        "tensorflow",
        "torch",
        "cv2",
    }


def test_the_names_of_the_pipeline_are_there():
    assert data.DataConfig.__module__ == "stvsr_jax.data.datasets" and callable(data.make_datasets)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        data.other  # noqa: B018
