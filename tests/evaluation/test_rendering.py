"""Windows over devices, and what makes them fail."""

import dataclasses
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import metrics
from stvsr_jax.evaluation import datasets, methods, rendering
from stvsr_jax.evaluation.protocols import PROTOCOLS
from stvsr_jax.inference import predictor
from tests.limits import HANG
from tests.virtual_devices import environment_with

ROOT = pathlib.Path(__file__).parents[2]


def render(method, protocol, folder, devices=None):
    clips = datasets.open_dataset("folder", folder, protocol)
    return clips, list(rendering.render_windows(method, protocol, clips, devices or jax.devices()[:1]))


def test_windows_come_in_order_whatever_the_number_of_threads(clips_folder):
    protocol = PROTOCOLS["full"]
    _, one = render(methods.open_method("bicubic_blend"), protocol, clips_folder)
    _, three = render(methods.open_method("bicubic_blend"), protocol, clips_folder, jax.devices()[:1] * 3)
    scored = [index for result in one for index in result.window.scored]
    assert scored == [*range(19), *range(9)]
    for a, b in zip(one, three, strict=True):
        assert a.window == b.window
        np.testing.assert_array_equal(a.prediction, b.prediction)
        np.testing.assert_array_equal(a.target, b.target)
        assert all((a.scores[name] == b.scores[name]).all() for name in metrics.METRICS)


class NearestVideoINR(nn.Module):
    """The signatures of VideoINR: repeats pixels, blends in time."""

    def encode(self, frames):
        return frames

    def decode(self, encoded, times, *, out_size, chunk_rows=None, grid=None):
        weight = times[:, :, None, None, None]
        blend = encoded[:, :1] * (1 - weight) + encoded[:, 1:] * weight
        scale = out_size[0] // encoded.shape[2]
        return blend.repeat(scale, axis=2).repeat(scale, axis=3)


def test_network_is_given_float_low_resolution_and_not_rounded(tmp_path, write_clip):
    write_clip(tmp_path / "clips" / "a", 17, 32, 32)
    protocol = PROTOCOLS["average"]
    method = dataclasses.replace(
        methods.open_method("bicubic_blend"),
        make=lambda: predictor.Predictor("videoinr", NearestVideoINR(), {}, tile=0),
    )
    (clip,), results = render(method, protocol, tmp_path / "clips")
    result = results[1]
    assert result.window == protocol.plan(17)[1]
    frames, target = clip.read(result.window)
    np.testing.assert_array_equal(result.target, target)
    blend = np.stack([frames[0] + (frames[1] - frames[0]) * k / 8 for k in range(8)])
    expected = blend.repeat(4, axis=1).repeat(4, axis=2)
    assert result.prediction.dtype == np.float32
    np.testing.assert_allclose(result.prediction, expected, atol=1e-6)
    for name, metric in metrics.METRICS.items():
        values = metric(jnp.array(expected), jnp.array(target / 255, jnp.float32))
        np.testing.assert_allclose(result.scores[name], values, rtol=1e-5)


def test_predictions_of_v3s_protocol_are_those_of_ours_in_8_bits(tmp_path, write_clip):
    write_clip(tmp_path / "clips" / "a", 9, 32, 32)
    method = dataclasses.replace(
        methods.open_method("bicubic_blend"),
        make=lambda: predictor.Predictor("videoinr", NearestVideoINR(), {}, tile=0),
    )
    _, (ours,) = render(method, PROTOCOLS["average"], tmp_path / "clips")
    _, (theirs,) = render(method, PROTOCOLS["v3_average"], tmp_path / "clips")
    exact = np.clip(ours.prediction, 0, 1) * 255
    assert theirs.prediction.dtype == np.uint8 and theirs.window == ours.window
    # Halves may fall to either side.
    assert np.abs(theirs.prediction - exact).max() <= 0.5 + 1e-3
    assert not np.array_equal(theirs.scores["psnr_y"], ours.scores["psnr_y"])


def test_error_of_a_thread_is_raised_and_ends_the_others(clips_folder):
    protocol = PROTOCOLS["zsm"]
    clips = datasets.open_dataset("folder", clips_folder, protocol)
    (clips_folder / "a" / "010.png").write_bytes(b"no picture")
    stream = rendering.render_windows(
        methods.open_method("bicubic_blend"), protocol, clips, jax.devices()[:1] * 2
    )
    with pytest.raises(ValueError, match="010.png cannot be read"):
        list(stream)


def test_tiles_are_never_chosen_silently(clips_folder, monkeypatch):
    class Small:
        tile = 0

        def predict(self, frames, times, *, space, rounded):
            self.tile = 64
            height, width = predictor.output_size(*frames.shape[1:3], space)
            return np.zeros((len(times), height, width, 3), np.uint8)

    method = dataclasses.replace(methods.open_method("bicubic_blend"), make=Small)
    with pytest.raises(ValueError, match="too little memory for tile=0 .* evaluate with --tile 64"):
        render(method, PROTOCOLS["zsm"], clips_folder)


DEVICES = """
import sys, pathlib
import jax, numpy as np
from stvsr_jax.evaluation import datasets, methods, rendering
from stvsr_jax.evaluation.protocols import PROTOCOLS

protocol = PROTOCOLS["zsm"]
clips = datasets.open_dataset("folder", pathlib.Path(sys.argv[1]), protocol)
used = set()

class Spy:
    tile = 0
    def __init__(self):
        self.inner = methods.open_method("bicubic_blend").make()
    def predict(self, frames, times, **options):
        used.add(jax.numpy.zeros(1).devices().pop())
        return self.inner.predict(frames, times, **options)

import dataclasses
method = dataclasses.replace(methods.open_method("bicubic_blend"), make=Spy)
runs = [list(rendering.render_windows(method, protocol, clips, devices)) for devices in (jax.devices(), jax.devices()[:1])]
assert len(jax.devices()) == 4 and used == set(jax.devices()), used
for a, b in zip(*runs, strict=True):
    assert (a.prediction == b.prediction).all() and all((a.scores[k] == b.scores[k]).all() for k in a.scores)
"""


def test_every_device_is_used_and_gives_the_same_numbers(tmp_path, write_clip):
    write_clip(tmp_path / "clips" / "long", 73, 28, 36)
    done = subprocess.run(
        [sys.executable, "-c", DEVICES, str(tmp_path / "clips")],
        cwd=ROOT,
        env=environment_with(4),
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr
