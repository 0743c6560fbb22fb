"""Networks on windows: padding, rounding, tiles, memory."""

import subprocess
import sys
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.inference import predictor, programs
from stvsr_jax.inference.predictor import Predictor
from tests.third_network import NAME, Thirds
from tests.virtual_devices import environment_with


def window(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_zooming_slowmo_returns_the_instants_asked_for(fake_models):
    frames = window(4, 10, 13)
    network = Predictor("zooming_slowmo", fake_models["zooming_slowmo"], {}, tile=0)
    result = network.predict(frames, [Fraction(1, 2), 1, 3], space=4)
    assert result.shape == (3, 40, 52, 3) and result.dtype == np.uint8
    exact = np.stack([(frames[0].astype(float) + frames[1]) / 2, frames[1], frames[3]])
    expected = np.floor(exact + 0.5).repeat(4, 1).repeat(4, 2)
    assert np.abs(result.astype(float) - expected).max() <= 1  # x/255*255 may fall short of a half
    np.testing.assert_array_equal(result[1:], expected[1:])


@pytest.mark.parametrize(
    ("size", "space", "out_size"),
    [
        ((12, 16), 2.0, (24, 32)),
        ((11, 14), 1.0, (11, 14)),
        ((9, 10), 3.0, (27, 30)),
        ((12, 16), 2.5, (30, 40)),
    ],
)
def test_videoinr_any_scale_and_instant(fake_models, size, space, out_size):
    frames = window(2, *size)
    network = Predictor("videoinr", fake_models["videoinr"], {}, tile=0)
    result = network.predict(frames, [Fraction(0), Fraction(1, 3), Fraction(1)], space=space)
    rows = ((np.arange(out_size[0]) + 0.5) / space).astype(int)
    columns = ((np.arange(out_size[1]) + 0.5) / space).astype(int)
    exact = np.stack([frames[0], frames[0] * (2 / 3) + frames[1] / 3, frames[1]])
    expected = np.floor(exact + 0.5)[:, rows][:, :, columns]
    assert result.shape == (3, *out_size, 3)
    assert np.abs(result - expected).max() <= 1


def test_tiled_equals_whole(fake_models):
    frames = window(4, 100, 131)
    networks = [Predictor("zooming_slowmo", fake_models["zooming_slowmo"], {}, tile=tile) for tile in (0, 64)]
    whole, tiled = (network.predict(frames, [0, 0.5], space=4) for network in networks)
    np.testing.assert_array_equal(tiled, whole)


@pytest.mark.parametrize("tile", [0, 64])
@pytest.mark.parametrize(("name", "space"), [("zooming_slowmo", 4), ("videoinr", 2)])
def test_float_frames_are_neither_clamped_nor_rounded(fake_models, name, space, tile):
    frames = np.random.default_rng(0).uniform(-0.3, 1.4, (2, 80, 96, 3)).astype(np.float32)
    result = Predictor(name, fake_models[name], {}, tile=tile).predict(
        frames, [0, 0.5], space=space, rounded=False
    )
    rows, columns = (((np.arange(n * space) + 0.5) / space).astype(int) for n in (80, 96))
    expected = np.stack([frames[0], (frames[0] + frames[1]) / 2])[:, rows][:, :, columns]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_float_input_is_rounded_on_request(fake_models):
    frames = window(2, 8, 8)
    network = Predictor("videoinr", fake_models["videoinr"], {}, tile=0)
    expected = network.predict(frames, [0, 0.5], space=2)
    result = network.predict(frames.astype(np.float32) / 255, [0, 0.5], space=2)
    np.testing.assert_array_equal(result, expected)


def test_zooming_slowmo_takes_windows_of_any_length(fake_models):
    network = Predictor("zooming_slowmo", fake_models["zooming_slowmo"], {}, tile=0)
    for count in (2, 3, 5):
        frames = window(count, 8, 8)
        result = network.predict(frames, [0, count - 1], space=4)
        np.testing.assert_array_equal(result, frames[[0, -1]].repeat(4, 1).repeat(4, 2))


def test_out_of_memory_halves_the_tile_and_goes_on(fake_models, capsys):
    network = Predictor("zooming_slowmo", fake_models["zooming_slowmo"], {}, tile=0)
    render = network._render
    sizes = []

    def small_device(frames, *rest):
        sizes.append(max(frames.shape[2:4]))
        if sizes[-1] > 100:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return render(frames, *rest)

    network._render = small_device
    frames = window(4, 120, 320)
    result = network.predict(frames, [0], space=4)
    np.testing.assert_array_equal(result[0], frames[0].repeat(4, 0).repeat(4, 1))
    assert sizes[:2] == [320, 160] and network.tile == 80
    assert "going on with tiles of 160" in capsys.readouterr().err


def test_other_device_errors_are_not_hidden(fake_models):
    network = Predictor("zooming_slowmo", fake_models["zooming_slowmo"], {}, tile=0)

    def broken(*rest):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    network._render = broken
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        network.predict(window(4, 8, 8), [0], space=4)


@pytest.mark.parametrize(("name", "space"), [("zooming_slowmo", 4), ("videoinr", 2)])
def test_sixteen_bits_stay_sixteen_bits(fake_models, name, space):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 65536, (2, 8, 8, 3), dtype=np.uint16)
    result = Predictor(name, fake_models[name], {}).predict(frames, [0, 0.5], space=space)
    exact = np.stack([frames[0].astype(float), frames.mean(axis=0)]).repeat(space, 1).repeat(space, 2)
    assert result.dtype == np.uint16 and np.abs(result - exact).max() <= 1


def test_sizes_may_stretch_the_picture(fake_models):
    frames = window(2, 8, 12)
    network = Predictor("videoinr", fake_models["videoinr"], {})
    result = network.predict(frames, [0], out_size=(24, 24))
    np.testing.assert_array_equal(result[0], frames[0].repeat(3, 0).repeat(2, 1))
    with pytest.raises(ValueError, match="size=24x4 is smaller than the input's 12x8"):
        network.predict(frames, [0], out_size=(4, 24))
    with pytest.raises(ValueError, match="makes 48x32"):
        Predictor("zooming_slowmo", fake_models["zooming_slowmo"], {}).predict(frames, [0], out_size=(24, 24))
    with pytest.raises(ValueError, match="exactly one"):
        network.predict(frames, [0])


class RampVideoINR(nn.Module):
    """Brightens from left to right and from top to bottom, whatever it is given."""

    def encode(self, frames):
        return frames

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        rows, columns = jnp.meshgrid(*(jnp.arange(n) / n for n in out_size), indexing="ij")
        return jnp.broadcast_to(0.25 * rows[..., None] + 0.5 * columns[..., None], (1, 1, *out_size, 3))


def test_ensemble_is_the_mean_of_the_flips():
    frames = window(2, 8, 8)
    alone = Predictor("videoinr", RampVideoINR(), {}).predict(frames, [0], space=1, rounded=False)
    network = Predictor("videoinr", RampVideoINR(), {}, ensemble=True)
    result = network.predict(frames, [0], space=1, rounded=False)
    flips = [alone[:, ::rows, ::columns] for rows in (1, -1) for columns in (1, -1)]
    np.testing.assert_allclose(result, np.mean(flips, axis=0), atol=1e-6)
    assert np.ptp(alone) > 0.5 and np.ptp(result) < 1e-6
    assert network.predict(frames, [0], space=1).dtype == np.uint8


def test_ensemble_puts_every_flip_back(fake_models):
    frames = window(4, 70, 80)
    for tile in (0, 64):
        result = Predictor(
            "zooming_slowmo", fake_models["zooming_slowmo"], {}, tile=tile, ensemble=True
        ).predict(frames, [0, 3], space=4)
        np.testing.assert_array_equal(result, frames[[0, 3]].repeat(4, 1).repeat(4, 2))


def test_identity_tells_networks_apart():
    def identity(value, **kwargs):
        params = {"w": np.float32([value])}
        return Predictor("videoinr", RampVideoINR(), params, **kwargs).identity

    assert identity(1) == identity(1) and len({identity(1), identity(2), identity(1, ensemble=True)}) == 3


@pytest.mark.parametrize(
    ("name", "space", "tile"), [("zooming_slowmo", 4, 0), ("videoinr", 2, 0), ("videoinr", 2, 64)]
)
def test_windows_together_are_windows_one_by_one(fake_models, monkeypatch, name, space, tile):
    network = Predictor(name, fake_models[name], {}, tile=tile)
    frames = np.stack([window(network.window_size, 70, 83, seed) for seed in range(3)])
    times = [[0, Fraction(1, 2), 1], [0, 0, 1], [Fraction(1, 2), 1, 1]]
    expected = [network.predict(f, t, space=space) for f, t in zip(frames, times, strict=True)]
    size = (70 * space, 83 * space)
    for instants in (None, 1, 2, 8):
        monkeypatch.setattr(programs, "most_instants", lambda *args: 8)  # as on an accelerator
        result = network.predict_windows(frames, times, out_size=size, instants=instants)
        np.testing.assert_array_equal(result, expected)


def test_another_number_format_shares_the_parameters(monkeypatch):
    monkeypatch.setitem(models.MODELS, NAME, Thirds)
    network = Predictor(NAME, models.build(NAME), {"gain": np.float32([0.9, 0.7, 0.5])}, tile=0)
    before = network.identity
    half = network.with_dtype("float16")
    assert (network.dtype, half.dtype) == ("float32", "float16") and network.with_dtype("float32") is network
    assert half.identity != before == network.identity and half._params is network._params
    frames = window(3, 8, 8)
    exact, rounded = (one.predict(frames, [1], space=2, rounded=False) for one in (network, half))
    assert 0 < np.abs(exact - rounded).max() < 0.01


def test_windows_that_are_too_many_for_the_memory_go_one_by_one(fake_models):
    network = Predictor("videoinr", fake_models["videoinr"], {}, tile=0)
    render = network._render
    counts = []

    def small_device(frames, *rest):
        counts.append(len(frames))
        if len(frames) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return render(frames, *rest)

    network._render = small_device
    frames = np.stack([window(2, 8, 8, seed) for seed in range(3)])
    result = network.predict_windows(frames, [[0]] * 3, out_size=(8, 8))
    np.testing.assert_array_equal(np.stack(result)[:, 0], frames[:, 0])
    assert counts == [3, 1, 1, 1] and network.tile == 0


@pytest.mark.parametrize(
    ("name", "space", "time", "message"),
    [
        ("zooming_slowmo", 3, 2, "space=3"),
        ("zooming_slowmo", 4, 3, "time=3"),
        ("videoinr", 0.5, 2, "space=0.5"),
        ("videoinr", float("nan"), 2, "space=nan"),
        ("videoinr", 2, 0, "time=0"),
        ("other", 2, 1, "model 'other'"),
    ],
)
def test_impossible_requests_are_named(name, space, time, message):
    with pytest.raises(ValueError, match=message):
        predictor.check_request(name, space=space, time=time)


def test_wrong_windows_are_refused(fake_models):
    network = Predictor("videoinr", fake_models["videoinr"], {}, tile=0)
    with pytest.raises(ValueError, match="uint8"):
        network.predict(window(3, 8, 8), [0], space=1)
    with pytest.raises(ValueError, match="times"):
        network.predict(window(2, 8, 8), [1.5], space=1)
    with pytest.raises(ValueError, match="float64"):
        network.predict(window(2, 8, 8).astype(np.float64), [0], space=1)
    with pytest.raises(ValueError, match="float32 \\[2, H, W, 3\\]"):
        Predictor("zooming_slowmo", fake_models["zooming_slowmo"], {}).predict(window(1, 8, 8), [0], space=4)
    with pytest.raises(ValueError, match="tile=8"):
        Predictor("videoinr", fake_models["videoinr"], {}, tile=8)


@pytest.mark.parametrize("name", ["zooming_slowmo", "videoinr"])
def test_real_networks_give_what_apply_gives(name):
    model = models.build(name, features=8, front_blocks=1, back_blocks=1, groups=2)
    frames = window(models.contract_of(name).window_size, 8, 12)
    unit = frames[None].astype(np.float32) / 255
    if name == "videoinr":
        times, kwargs = np.float32([[0, 0.25]]), {"out_size": (24, 36)}
        arguments = (unit, times)
        request = ([Fraction(0), Fraction(1, 4)], 3.0)
    else:
        arguments, kwargs = (unit,), {}
        request = ([Fraction(n, 2) for n in range(7)], 4.0)
    shapes = jax.eval_shape(lambda *x: model.init(*x, **kwargs), jax.random.key(0), *arguments)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype(np.float32), shapes)
    apply = jax.jit(lambda params, *x: model.apply({"params": params}, *x, **kwargs)).lower(
        params, *arguments
    )
    rendered = apply.compile(compiler_options={"xla_backend_optimization_level": 0})(params, *arguments)
    expected = np.clip(np.asarray(rendered)[0], 0, 1) * 255
    result = Predictor(name, model, params, tile=0).predict(frames, request[0], space=request[1])
    assert result.shape == expected.shape
    assert (
        np.abs(result - expected).max() <= 0.6
    )  # half a level, and what other compilations round differently


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "space", "levels"), [("zooming_slowmo", 4, 1), ("videoinr", 2, 1)])
def test_tiles_of_real_networks_leave_no_seams(name, space, levels):
    sizes = dict(features=8, front_blocks=1, back_blocks=1, groups=2)
    model = models.build(name, **sizes, **({"hidden": (8, 8, 8)} if name == "videoinr" else {}))
    params = models.init_params(model, jax.random.key(1))
    smooth = np.random.default_rng(0).uniform(0, 255, (models.contract_of(name).window_size, 18, 21, 3))
    frames = smooth.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    whole, tiled = (
        Predictor(name, model, params, tile=tile).predict(frames, [0, 0.5], space=space, rounded=False)
        for tile in (0, 96)
    )
    assert np.ptp(whole) > 0.2 and np.abs(tiled - whole).max() < levels / 255


EIGHT_DEVICES = """
import flax.linen as nn
import jax
import numpy as np
from stvsr_jax.inference import pipeline
from stvsr_jax.inference.predictor import Predictor
from stvsr_jax.video.sequential_reader import TimedFrame
from stvsr_jax.models.contract import choose_instants

class Tint(nn.Module):
    @nn.compact
    def encode(self, frames):
        tint = self.param("tint", nn.initializers.normal(0.3), (3, 3))
        between = (frames[:, 1:] + frames[:, :-1]) / 2
        steps = [(between if n % 2 else frames)[:, n // 2] for n in range(2 * frames.shape[1] - 1)]
        return (jax.numpy.stack(steps, 1) @ tint).repeat(4, axis=2).repeat(4, axis=3)

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        return choose_instants(encoded, times)

model = Tint()
params = model.init(jax.random.key(0), np.zeros((1, 2, 4, 4, 3)), method="encode")["params"]
images = np.random.default_rng(0).integers(0, 256, (31, 8, 8, 3), np.uint8)
frames = [TimedFrame(image, i, 1) for i, image in enumerate(images)]
videos = []
for devices in (jax.devices()[:1], jax.devices()):
    network = Predictor("zooming_slowmo", model, params, devices=devices)
    used = set()

    def predict(images, times, device):
        used.add(device)
        return network.predict_windows(images, times, out_size=(32, 32), device=device)

    groups = pipeline.group(pipeline.plan(frames, window_size=4, time=2))
    rendered = pipeline.render(groups, predict, devices=len(devices))
    outputs = [out for window in rendered for out in window]
    assert [out.frame.time * 2 for out in outputs] == list(range(62))
    assert used == set(range(len(devices))) and len(devices) in (1, 8)
    homes = {next(iter(jax.tree.leaves(params)[0].devices())) for params in network._params}
    assert homes == set(devices)
    videos.append(np.stack([out.frame.image for out in outputs]))
np.testing.assert_array_equal(*videos)
"""


def test_windows_on_eight_devices_give_the_video_of_one():
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES], env=environment_with(8), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
