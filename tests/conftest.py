"""Frames, videos, and the config of a network that compiles in a second."""

import contextlib
import copy
import gc
import importlib.metadata
import importlib.util
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from tests import media_files

JAX_MINOR = int(importlib.metadata.version("jax").split(".")[1])
# Tests spend their time compiling: LLVM's optimisation is left out, in the processes that they start as well, and jax 0.10
# emits fusions without MLIR, which halves the time; later versions cannot. JAX and XLA do all that they do otherwise.
# XLA_FLAGS, if set, is taken as it is.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0" + (" --xla_cpu_use_fusion_emitters=false" if JAX_MINOR < 11 else ""),
)
# Tracing makes millions of objects, and most of them stay: looking for cycles among them less often takes a third off it.
gc.set_threshold(100_000, 20, 20)
# From jax 0.11 on, kernels of Hopper GPUs are interpreted. Warpgroups that wait for a barrier hold threads of XLA, as many as
# there are cores: on two cores the one that all wait for may get none.
if JAX_MINOR >= 11:
    os.environ.setdefault("NPROC", str(max(8, os.cpu_count())))

LINEAR_CONFIG = pathlib.Path(__file__).with_name("linear_config.py")


@pytest.fixture(autouse=True)
def restore_cache_settings():
    """JAX's settings are those of the process: tests of kept programs must not leave theirs to the others."""
    import jax

    names = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(autouse=True)
def forget_used_videos():
    """A process holds a lock for each cache of videos that it uses; the tests use hundreds."""
    from stvsr_jax.video import scan_cache

    yield
    scan_cache._users.clear()


@pytest.fixture(scope="session")
def write_frames():
    """Return a function that writes a folder of PNG frames: noise, every frame different."""

    def write(folder, count, height, width, *, seed=0):
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for n in range(count):
            frame = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            Image.fromarray(frame).save(folder / f"{n:03d}.png", compress_level=1)
        return folder

    return write


@pytest.fixture
def draw_frames():
    """Return a function that draws frames uint8 [N, H, W, 3]: a moving texture, every frame different."""

    def draw(count, height, width, *, seed=0, speed=1.5):
        texture = np.random.default_rng(seed).uniform(20, 230, (height // 8 + 40, width // 8 + 40, 3))
        y, x = np.mgrid[:height, :width]
        frames = []
        for n in range(count):
            row, column = (y + speed * n) / 8, (x + 0.7 * speed * n) / 8
            i, j = row.astype(int), column.astype(int)
            a, b = (row - i)[..., None], (column - j)[..., None]
            i, j = i % (texture.shape[0] - 1), j % (texture.shape[1] - 1)
            top = texture[i, j] * (1 - b) + texture[i, j + 1] * b
            bottom = texture[i + 1, j] * (1 - b) + texture[i + 1, j + 1] * b
            frames.append(top * (1 - a) + bottom * a)
        return np.round(frames).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def write_video():
    """Return the function `media_files.write_video`."""
    return media_files.write_video


@pytest.fixture(scope="session")
def write_sound():
    """Return the function `media_files.write_sound`: a small video with a tone of 440 Hz."""
    return media_files.write_sound


@pytest.fixture
def clip_folder(tmp_path, write_frames):
    """Return a folder with one clip of 24 frames of 24x32 pixels (height x width)."""
    write_frames(tmp_path / "clips" / "noise", 24, 24, 32)
    return tmp_path / "clips"


@contextlib.contextmanager
def registered_config():
    """Give the module tests/linear_config.py; inside, its network is registered."""
    from stvsr_jax import models

    spec = importlib.util.spec_from_file_location("linear_config", LINEAR_CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        yield module
    finally:
        del models.MODELS["linear"]


def config_of(module, clip_folder):
    config = module.get_config()
    config.data.path = str(clip_folder)
    config.data.cache_dir = str(clip_folder.parent / "cache")
    return config


@pytest.fixture
def linear_config():
    """Return the module tests/linear_config.py, its network registered for the length of the test."""
    with registered_config() as module:
        yield module


@pytest.fixture
def config(linear_config, clip_folder):
    """Return the config of a linear network on the folder's clip."""
    return config_of(linear_config, clip_folder)


@pytest.fixture
def params():
    """Return parameters of the network of tests/linear_config.py."""
    rng = np.random.default_rng(0)
    return {"into": rng.normal(size=(3, 4)).astype("f"), "out": rng.normal(size=(4, 3)).astype("f")}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, write_frames):
    """Return the directory of a run for `run`: it is trained once and copied."""
    from stvsr_jax.training import train

    folder = tmp_path_factory.mktemp("run")
    write_frames(folder / "clips" / "noise", 24, 24, 32)
    with registered_config() as module:
        train.train_and_evaluate(config_of(module, folder / "clips"), folder / "run")
    return folder / "run"


@pytest.fixture
def run(finished_run, config, tmp_path):
    """Return the directory of a run of `config`, four steps with checkpoints of steps 2 and 4."""
    return shutil.copytree(finished_run, tmp_path / "run")


FACTS = {
    "summary": "Random numbers.",
    "licence": "Apache-2.0",
    "data": [{"name": "none", "licence": "CC0", "amount": "0 frames"}],
    "recipe": ["drawn from a normal distribution"],
    "hardware": "one CPU",
    "steps": 7,
    "hours": 0.5,
    "scores": [
        {"data": "noise", "protocol": "zsm", "PSNR-Y": 5.5},
        {"data": "a|b", "protocol": "full", "SSIM-Y": 0.1},
    ],
    "weaknesses": ["everything"],
}
SMALL = {"features": 8, "front_blocks": 1, "back_blocks": 1, "groups": 2}


@pytest.fixture
def facts():
    """Return facts for a card of weights."""
    return copy.deepcopy(FACTS)


@pytest.fixture
def write_set(facts):
    """Return write(folder, name, network, seed=): a set of a tiny network's weights; returns its parameters."""

    def write(folder, name, network, *, seed=0):
        import jax

        from stvsr_jax.models.spec import ModelSpec, param_shapes
        from stvsr_jax.weights import files, publish

        spec = ModelSpec(network, SMALL | ({"hidden": [8, 8, 8]} if network == "videoinr" else {}))
        rng = np.random.default_rng(seed)
        params = jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype("f"), param_shapes(spec.build()))
        publish.publish(params, spec, files.layout_of(folder, name), name=name, facts=facts)
        return params

    return write


@pytest.fixture
def shipped(tmp_path, write_set, monkeypatch):
    """Return ship(*names): from then on the package holds these sets and no others; returns their folder."""
    from stvsr_jax.weights import shipped as sets

    def ship(*names):
        folder = tmp_path / "shipped"
        for name in names:
            write_set(folder, name, "videoinr" if name == "videoinr" else "zooming_slowmo", seed=len(name))
        monkeypatch.setattr(sets, "FOLDER", folder)
        return folder

    return ship
