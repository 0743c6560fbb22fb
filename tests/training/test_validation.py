"""The bicubic baseline and the averages of scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stvsr_jax import bicubic, models
from stvsr_jax.runtime import sharding
from stvsr_jax.training import validation


def test_baseline_blends_neighbours_linearly_in_time():
    frames = np.random.default_rng(0).uniform(size=(1, 3, 6, 8, 3)).astype(np.float32)
    times = jnp.array([[0.0, 0.25, 0.5, 0.875, 1.0]])
    out = validation.bicubic_blend(jnp.array(frames), times, out_size=(24, 32))
    large = np.stack([bicubic.imresize(frame, scale=4.0) for frame in frames[0]])
    a, b, c = large
    expected = np.stack([a, (a + b) / 2, b, 0.25 * b + 0.75 * c, c])
    assert out.shape == (1, 5, 24, 32, 3) and out.dtype == jnp.float32
    np.testing.assert_allclose(out[0], expected, atol=2e-6)


def test_baseline_takes_the_times_of_each_sample():
    frames = jnp.stack([jnp.zeros((2, 4, 4, 3)), jnp.ones((2, 4, 4, 3))]).at[:, 1].add(1.0)
    out = validation.bicubic_blend(frames, jnp.array([[0.25], [0.75]]), out_size=(6, 6))
    np.testing.assert_allclose(out[0], 0.25, atol=1e-6)
    np.testing.assert_allclose(out[1], 1.75, atol=1e-6)


def test_baseline_of_the_published_instants_is_the_frames_and_their_means():
    frames = jnp.arange(4.0)[None, :, None, None, None] * jnp.ones((1, 4, 4, 4, 3))
    out = validation.bicubic_blend(frames, jnp.linspace(0, 1, 7)[None], out_size=(16, 16))
    np.testing.assert_allclose(out[0, :, 5, 5, 0], [0, 0.5, 1, 1.5, 2, 2.5, 3], atol=1e-5)


def test_eval_step_scores_each_frame_of_network_and_baseline(linear_config):
    rng = np.random.default_rng(0)
    batch = {
        "frames": rng.uniform(size=(1, 2, 4, 4, 3)).astype(np.float32),
        "target": rng.uniform(size=(1, 3, 16, 16, 3)).astype(np.float32),
        "times": np.float32([[0, 0.5, 1]]),
    }
    params = {"into": jnp.eye(3, 4), "out": jnp.eye(4, 3)}  # the network repeats pixels
    mesh = sharding.make_mesh()
    scores = validation.make_eval_step(models.build("linear"), mesh)(params, sharding.to_global(batch, mesh))
    repeated = np.asarray(linear_config.enlarge(jnp.array(batch["frames"])))
    error = ((repeated - batch["target"]) @ [65.481, 128.553, 24.966]) ** 2
    expected = 20 * np.log10(255) - 10 * np.log10(error.mean(axis=(-2, -1)))
    assert scores["psnr_y"].shape == scores["psnr_y_bicubic"].shape == (1, 3)
    np.testing.assert_allclose(scores["psnr_y"], expected, rtol=1e-5)
    assert not np.allclose(scores["psnr_y_bicubic"], expected)


def test_score_is_the_mean_over_all_frames_of_all_batches():
    batches = [{"x": np.float32([[1, 2], [3, 6]])}, {"x": np.float32([[10, 20], [0, 6]])}]
    mesh = sharding.make_mesh()
    scores = validation.score(lambda params, batch: {"a": batch["x"] + params}, 1.0, batches, mesh)
    assert scores == {"a": 7.0}
    assert isinstance(scores["a"], float)


def test_frames_equal_to_their_target_are_in_no_mean():
    inf, mesh = np.float32(np.inf), sharding.make_mesh()
    batches = [
        {"psnr_y": np.float32([[20, 60]]), "psnr_y_bicubic": np.float32([[10, inf]])},
        {"psnr_y": np.float32([[inf, 22]]), "psnr_y_bicubic": np.float32([[50, 14]])},
    ]
    scores = validation.score(lambda params, batch: batch, None, batches, mesh)
    assert scores == {"psnr_y": 21.0, "psnr_y_bicubic": 12.0}
    equal = {"psnr_y": np.float32([[30.0]]), "psnr_y_bicubic": inf[None, None]}
    assert validation.score(lambda params, batch: batch, None, [equal], mesh) == {
        "psnr_y": 30.0,
        "psnr_y_bicubic": inf,
    }
    wrong = {"psnr_y": np.float32([[20.0, np.nan]])}  # of a network that is not finite
    assert np.isnan(validation.score(lambda params, batch: batch, None, [wrong], mesh)["psnr_y"])


def test_black_windows_leave_a_finite_score(linear_config):
    frames = np.random.default_rng(0).uniform(size=(2, 2, 4, 4, 3)).astype(np.float32)
    frames[0] = 0.0
    target = np.array(linear_config.enlarge(jnp.array(frames)))
    target[1] += 0.1  # a window that is not black
    batches = [
        {"frames": frames[n : n + 1], "target": target[n : n + 1], "times": np.float32([[0, 0.5, 1]])}
        for n in (0, 1)
    ]
    mesh = sharding.make_mesh()
    step = validation.make_eval_step(models.build("linear"), mesh)
    params = {"into": 0.9 * jnp.eye(3, 4), "out": jnp.eye(4, 3)}
    both, alone = (validation.score(step, params, some, mesh) for some in (batches, batches[1:]))
    assert both == alone and np.isfinite(list(both.values())).all()


def test_no_windows_is_an_error():
    with pytest.raises(ValueError, match="no held-out windows"):
        validation.score(lambda params, batch: {}, None, [], sharding.make_mesh())


def test_eval_step_returns_whole_arrays(linear_config):
    mesh = sharding.make_mesh()
    step = validation.make_eval_step(models.build("linear"), mesh)
    shapes = {"frames": (1, 2, 4, 4, 3), "target": (1, 3, 16, 16, 3), "times": (1, 3)}
    batch = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    params = {"into": jax.ShapeDtypeStruct((3, 4), "f"), "out": jax.ShapeDtypeStruct((4, 3), "f")}
    out = jax.eval_shape(step.jitted, params, batch)
    assert {key: value.shape for key, value in out.items()} == {"psnr_y": (1, 3), "psnr_y_bicubic": (1, 3)}
