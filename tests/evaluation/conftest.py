"""Folders of tiny frames in the layouts of the published data sets."""

import jax
import numpy as np
import pytest
from PIL import Image

from stvsr_jax import checkpoint, models

SMALL = {"features": 8, "front_blocks": 1, "back_blocks": 1, "groups": 2}


@pytest.fixture
def write_clip():
    """Return write(folder, count, height, width): a drifting texture, every frame different."""

    def write(folder, count, height, width, *, shift=0):
        folder.mkdir(parents=True)
        y, x = np.mgrid[:height, :width]
        for n in range(count):
            waves = [np.sin((x + 1.5 * n + shift) / (4 + c)) * np.cos((y - n) / (5 + c)) for c in range(3)]
            frame = np.round(127 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)
            Image.fromarray(frame).save(folder / f"{n + 1:03d}.png", compress_level=1)
        return folder

    return write


@pytest.fixture
def clips_folder(tmp_path, write_clip):
    """Return a folder with the clips a (19 frames of 30x37, height x width) and b (9 frames of 28x40)."""
    write_clip(tmp_path / "clips" / "a", 19, 30, 37)
    write_clip(tmp_path / "clips" / "b", 9, 28, 40, shift=50)
    return tmp_path / "clips"


@pytest.fixture
def save_checkpoint(tmp_path):
    """Return save(name, seed): a checkpoint of a tiny network with random weights."""

    def save(name, *, seed=0):
        spec = checkpoint.ModelSpec(name, SMALL)
        shapes = jax.eval_shape(lambda key: models.init_params(spec.build(), key), jax.random.key(0))
        rng = np.random.default_rng(seed)
        params = jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype(np.float32), shapes)
        checkpoint.save_params(tmp_path / f"{name}{seed}", params, spec)
        return tmp_path / f"{name}{seed}"

    return save
