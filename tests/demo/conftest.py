"""Networks whose output is known, and a video to enlarge with them."""

import importlib.util
import pathlib

import numpy as np
import pytest

from stvsr_jax.inference import predictor


@pytest.fixture(scope="session")
def fakes():
    """Return the module tests/inference/conftest.py: networks that repeat pixels."""
    path = pathlib.Path(__file__).parents[1] / "inference" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fakes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake_predictors(fakes):
    """Return network name -> predictor."""
    return {name: predictor.Predictor(name, fakes.FAKES[name](), {}) for name in fakes.FAKES}


@pytest.fixture
def source(tmp_path, write_video):
    """Return a video of 12 frames of 48x32 pixels (width x height), with sound: a bar that moves down."""
    images = np.full((12, 32, 48, 3), 40, np.uint8)
    for i, image in enumerate(images):
        image[i : i + 8] = 200
    return write_video(tmp_path / "in.mp4", images, has_audio=True)
