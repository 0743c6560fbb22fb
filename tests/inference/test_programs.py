"""What runs on the device: rounding, padding, and how much at a time."""

import jax
import numpy as np
import pytest

from stvsr_jax import models
from stvsr_jax.inference import programs, tiling


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_rounded_to_nearest_halves_upwards(dtype):
    most = np.iinfo(dtype).max
    values = np.array([-0.5, 0.0, 0.499 / most, 0.501 / most, 1.0, 7.0], np.float32)
    result = programs.finish(values, dtype)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, [0, 0, 0, 1, most, most])


def test_floats_stay_as_they_are():
    values = np.array([-0.5, 7.0], np.float32)
    np.testing.assert_array_equal(programs.finish(values, np.float32), values)
    np.testing.assert_array_equal(programs.to_unit(values), values)
    np.testing.assert_array_equal(programs.to_unit(np.uint16([0, 65535])), [0, 1])


def test_edges_are_repeated_up_to_a_multiple_of_four():
    frames = np.arange(2 * 3 * 5 * 6 * 3).reshape(2, 3, 5, 6, 3)
    padded = programs.pad_to_multiple(frames)
    assert padded.shape == (2, 3, 8, 8, 3)
    np.testing.assert_array_equal(padded[:, :, :5, :6], frames)
    np.testing.assert_array_equal(padded[:, :, 7, 7], frames[:, :, 4, 5])
    assert programs.pad_to_multiple(padded) is padded
    assert programs.padded_out_size((8, 8), (5, 6), (10, 15)) == (16, 20)


def test_what_is_done_at_a_time_is_bounded():
    assert programs.chunk_rows((720, 1280), "gpu") == 720
    assert programs.chunk_rows((720, 1280), "cpu") == 204
    assert programs.chunk_rows((4, 2**20), "cpu") == 1
    assert programs.chunk_rows((720, 1280), "tpu") == 12  # of which 60 are a frame
    assert programs.chunk_rows((1080, 1920), "tpu") == 8
    assert programs.chunk_rows((719, 1280), "tpu") == 12  # 719 is prime
    assert programs.most_instants((720, 1280), 1, "cpu") == 1
    assert programs.most_instants((720, 1280), 2, "gpu") == 18
    assert programs.most_instants((8192, 8192), 1, "gpu") == 1


@pytest.mark.parametrize(("instants", "rows"), [(2, {7}), (1, {4}), (None, {6, 7})])
def test_the_last_window_has_the_program_of_the_others(monkeypatch, instants, rows):
    compiled = set()

    def decode(model, params, encoded, times, grid, **sizes):
        compiled.add(times.shape[1])
        return times

    monkeypatch.setattr(programs, "encode", lambda model, params, frames: frames)
    monkeypatch.setattr(programs, "decode", decode)
    contract = models.contract_of("zooming_slowmo")
    frames = np.zeros((1, 4, 8, 8, 3), np.uint8)
    place = tiling.Place((32, 32), (0, 0), (32, 32))
    step = 1 / (instants or 2)
    for count in (
        round(3 / step),
        round(3 / step) + 1,
    ):  # the last frame of a window is the first of the next
        times = [[step * n for n in range(count)]]
        given = dict(place=place, home=jax.devices()[0], form=np.uint8, instants=instants)
        (result,) = programs.start(None, None, contract, frames, times, **given)
        np.testing.assert_allclose(result[0, :count], np.array(times[0]) / 3, rtol=1e-6)
    assert compiled == rows
