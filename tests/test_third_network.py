"""A third network goes through every part of the package, which knows it by its contract alone."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from stvsr_jax import benchmark, checkpoint, export, models
from stvsr_jax.evaluation import methods, protocols
from stvsr_jax.inference import tile_size
from stvsr_jax.inference.__main__ import main as run_inference
from stvsr_jax.inference.predictor import Predictor
from stvsr_jax.models import from_torch
from stvsr_jax.runtime import sharding
from stvsr_jax.training import optim, train_state, train_step
from stvsr_jax.weights import files, publish
from tests.third_network import NAME, Thirds, expect

GAIN = np.float32([1.0, 0.75, 0.5])


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(models.MODELS, NAME, Thirds)


@pytest.fixture
def network():
    return Predictor(NAME, models.build(NAME), {"gain": GAIN}, tile=0)


@pytest.fixture
def weights(tmp_path):
    """Return a checkpoint of it."""
    checkpoint.save_params(tmp_path / "weights", {"gain": GAIN}, checkpoint.ModelSpec(NAME, {}))
    return tmp_path / "weights"


def draw(count, height=8, width=12):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("count", [2, 3])
def test_predictor_renders_its_instants(network, count):
    frames, steps = draw(count, 7, 10), [0, 1, 3, 2]
    result = network.predict(frames, [step / 3 for step in steps], space=2)
    assert np.abs(result - expect(frames, GAIN)[steps]).max() <= 0.5 + 1e-3


def test_predictor_names_what_it_cannot_do(network):
    with pytest.raises(ValueError, match="multiples of 1/3 for thirds"):
        network.predict(draw(3), [0.5], space=2)
    with pytest.raises(ValueError, match="thirds enlarges 2 times only; use videoinr"):
        network.predict(draw(3), [0], space=4)
    with pytest.raises(ValueError, match="thirds makes 24x16 of 12x8; use videoinr"):
        network.predict(draw(3), [0], out_size=(32, 48))


def test_tiles_are_those_of_its_memory_and_give_the_whole(network, monkeypatch):
    monkeypatch.setattr(tile_size, "available_memory", lambda: 2 * 1000 * 80 * 80)
    assert tile_size.choose_tile(NAME, 80, 80) == 0 and tile_size.choose_tile(NAME, 100, 130) == 80
    frames = draw(3, 100, 130)
    tiled = Predictor(NAME, models.build(NAME), {"gain": GAIN}).predict(frames, [0, 1 / 3], space=2)
    np.testing.assert_array_equal(tiled, network.predict(frames, [0, 1 / 3], space=2))


def test_video_from_file_to_file(tmp_path, weights):
    frames = draw(6)
    (tmp_path / "in").mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "in" / f"{i}.png")
    asked = [tmp_path / "in", tmp_path / "out", "--checkpoint", weights, "--input_fps", 10, "--space", 2]
    asked += ["--scene_threshold", 0]
    assert run_inference([*map(str, asked), "--fps", "30"]) == 0
    made = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").glob("*.png"))]
    expected = expect([*frames, frames[-1]], GAIN)[:18]  # the last frame stands until its end
    assert np.abs(np.stack(made).astype(float) - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--fps", "20"), "thirds makes 1 or 3 frames of each, 10 or 30 per second here; use videoinr"),
        (("--time", "2"), "time=2: thirds makes 1 or 3 frames of each; use videoinr"),
    ],
)
def test_video_rate_that_it_cannot_make_is_named(tmp_path, weights, capsys, flags, named):
    (tmp_path / "in").mkdir()
    Image.fromarray(draw(1)[0]).save(tmp_path / "in" / "0.png")
    asked = [tmp_path / "in", tmp_path / "out", "--checkpoint", weights, "--input_fps", 10, "--space", 2]
    assert run_inference([*map(str, asked), *flags]) == 2
    assert named in capsys.readouterr().err


def test_evaluation_opens_it_as_a_method(weights):
    method = methods.open_method(str(weights))
    assert (method.name, method.window_size, method.steps) == (NAME, 3, 3)
    frames = draw(3)
    result = method.make().predict(frames, [0, 2 / 3], space=2)
    assert np.abs(result - expect(frames, GAIN)[[0, 2]]).max() <= 0.5 + 1e-3
    method.check(protocols._pairs("fits", 6, [0, 2, 4], space=2))
    with pytest.raises(ValueError, match="renders multiples of 1/3 only"):
        method.check(protocols._pairs("halves", 6, [0, 3], space=2))
    with pytest.raises(ValueError, match="thirds enlarges 2 times only"):
        method.check(protocols.PROTOCOLS["zsm"])


@pytest.mark.parametrize("time", [1, 3])
def test_export_gives_what_the_predictor_gives(network, time):
    frames = draw(3)
    exported = export.export(
        NAME, models.build(NAME), {"gain": GAIN}, size=(8, 12), space=2, time=time, platforms=["cpu"]
    )
    steps = range(2 * time + 1)
    expected = network.predict(frames, [step / time for step in steps], space=2)
    np.testing.assert_array_equal(exported.call(frames), expected)


@pytest.mark.parametrize(
    ("flags", "shapes"), [([], "1 x 3x8x12 -> 7x16x24"), (["--train"], "2 x 3x4x8 -> 7x8x16")]
)
def test_benchmark_times_it(capsys, monkeypatch, flags, shapes):
    arguments = ["--model", NAME, "--dtype", "float32", "--repeats", "1", "--json", *flags]
    monkeypatch.setattr(benchmark.distributed, "initialize", lambda: None)  # JAX has run here already
    assert benchmark.main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["model"], record["shapes"]) == (NAME, shapes) and record["milliseconds"] > 0


def test_training_step_lowers_its_loss():
    mesh, model = sharding.make_mesh(), models.build(NAME)
    optimizer = optim.make_optimizer(optim.OptimizerConfig(0.1, 0.1, 100, 0.9, 0.99))
    params = train_state.draw_params(model, jax.random.key(0))
    np.testing.assert_array_equal(params["gain"], np.ones(3))
    frames = draw(3)
    batch = {
        "frames": frames[None].astype(np.float32) / 255,
        "times": np.linspace(0, 1, 7, dtype=np.float32)[None],
        "target": expect(frames, GAIN)[None].astype(np.float32) / 255,
    }
    state = train_state.create_on(mesh, params, optimizer, has_ema=False)
    step = train_step.make_train_step(model, optimizer, train_step.LossConfig("charbonnier", "mean"), mesh)
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.2 * losses[0]


def test_weights_are_published_with_its_paper(tmp_path, facts):
    layout = files.layout_of(tmp_path, "set")
    publish.publish({"gain": GAIN}, checkpoint.ModelSpec(NAME, {}), layout, name="set", facts=facts)
    assert "[Thirds](https://arxiv.org/abs/0000.00000)" in layout.card.read_text()


def test_that_nobody_published_weights_of_it_is_said():
    with pytest.raises(ValueError, match="thirds has no published weights"):
        from_torch.convert(NAME, {})
