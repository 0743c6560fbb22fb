"""VideoINR's decoder against its definition step by step, and its options against each other."""

import functools
import sys
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax.models import videoinr
from stvsr_jax.models.videoinr import Encoded, VideoINR
from stvsr_jax.ops.sine_mlp import triton as sine_mlp_triton

# These tests spend their time compiling: leave the optimisation out.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

CLAMP = 1 - 1e-6
LOW = (8, 12)
TIMES = np.array([[0.0, 0.3], [0.55, 1.0]], np.float32)


def random_decoder(model, seed=0):
    """Returns (decoder parameters, Encoded of 2 clips); the flows reach several pixels, some the border."""
    rng = np.random.default_rng(seed)
    c = model.features
    encoded = Encoded(
        jnp.asarray(0.5 * rng.standard_normal((2, *LOW, 3 * c)), jnp.float32),
        jnp.asarray(rng.uniform(size=(2, *LOW, 6)), jnp.float32),
    )
    init = functools.partial(model.init, out_size=(4, 4), method="decode")
    params = jit(init)(jax.random.key(seed), encoded, TIMES)["params"]
    motion = dict(params["motion"])
    motion["kernel3"] = motion["kernel3"] * 100
    return params | {"motion": motion}, encoded


@pytest.fixture(scope="module")
def small():
    """Returns (model, parameters, Encoded) at sizes that compile fast."""
    model = VideoINR(features=8, groups=2, hidden=(16, 16, 16))
    return model, *random_decoder(model)


def decode(model, params, encoded, times, **kwargs):
    apply = functools.partial(model.apply, method="decode", **kwargs)
    return jit(apply)({"params": params}, encoded, times)


# The definition, in float64 numpy, all inputs of each network gathered side by side.


def mlp(params, x):
    layers = len(params) // 2
    for i in range(layers):
        x = x @ np.asarray(params[f"kernel{i}"], np.float64) + np.asarray(params[f"bias{i}"], np.float64)
        if i < layers - 1:
            x = np.sin(30 * x)
    return x


def to_pixels(points, size):
    """Returns pixels of (y, x) in [-1, 1] from outer edge to outer edge."""
    return ((points + 1) * np.array(size) - 1) / 2


def bilinear(image, points):
    """Returns [H', W', C] of image [H, W, C] at points [H', W', 2] in [-1, 1], zero outside."""
    y, x = np.moveaxis(to_pixels(points, image.shape[:2]), -1, 0)
    out = 0.0
    for row in (np.floor(y), np.floor(y) + 1):
        for column in (np.floor(x), np.floor(x) + 1):
            inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
            r = np.clip(row, 0, image.shape[0] - 1).astype(int)
            c = np.clip(column, 0, image.shape[1] - 1).astype(int)
            weight = np.where(inside, (1 - abs(y - row)) * (1 - abs(x - column)), 0)
            out = out + weight[..., None] * image[r, c]
    return out


def centres(size):
    """Returns [H, W, 2]: the (y, x) of the cell centres in [-1, 1]."""
    axes = [(2 * np.arange(n) + 1) / n - 1 for n in size]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def nearest_cells(out_size, low):
    """Returns [H', W', 2]: the LR cell nearest to each output centre, in exact fractions.

    Where two are equally near, the even one is taken; at the sizes of these tests it is the later one.
    """
    axes = []
    for count, n in zip(out_size, low, strict=True):
        centre = [Fraction((2 * i + 1) * n - count, 2 * count) for i in range(count)]
        axes.append([min(max(round(c), 0), n - 1) for c in centre])
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def naive_decode(params, features, frames, t, out_size):
    """Returns ([H', W', 3], the flows [H', W', 4]) of one clip at one instant."""
    low, p = frames.shape[:2], centres(out_size)
    instant = np.full((*out_size, 1), t)

    cell = nearest_cells(out_size, low)
    f, i = features[cell[..., 0], cell[..., 1]], frames[cell[..., 0], cell[..., 1]]
    r = (p - centres(low)[cell[..., 0], cell[..., 1]]) * np.array(low)
    s = mlp(params["space"], np.concatenate([f, i, r, instant], -1))

    flows = mlp(
        params["motion"], np.concatenate([s, bilinear(features, p), bilinear(frames, p), instant], -1)
    )
    base_y, base_x = np.meshgrid(*(np.linspace(-1, 1, n) for n in out_size), indexing="ij")
    read = []
    for k in (0, 2):
        y = base_y + 2 * flows[..., k + 1] / (out_size[0] - 1)
        x = base_x + 2 * flows[..., k] / (out_size[1] - 1)
        read.append(np.clip(np.stack([y, x], -1), -CLAMP, CLAMP))
    gathered = [bilinear(image, q) for image in (s, features, frames) for q in read]
    return mlp(params["colour"], np.concatenate([*gathered, instant], -1)), flows


@pytest.mark.parametrize("out_size", [(27, 37), (5, 9)])
def test_decode_equals_its_definition_at_published_widths(out_size):
    model = VideoINR()
    params, encoded = random_decoder(model)
    widths = [params[network]["kernel0"].shape[0] for network in ("space", "motion", "colour")]
    assert widths == [201, 263, 525]

    got = decode(model, params, encoded, TIMES, out_size=out_size)
    assert got.shape == (2, 2, *out_size, 3) and got.dtype == jnp.float32
    params64 = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    features, frames = np.asarray(encoded.features, np.float64), np.asarray(encoded.frames, np.float64)
    reach = []
    for b, t in np.ndindex(2, 2):
        want, flows = naive_decode(params64, features[b], frames[b], TIMES[b, t], out_size)
        reach.append(np.abs(flows).mean())
        np.testing.assert_allclose(got[b, t], want, atol=2e-4)
    assert 0.5 < np.mean(reach) < 10  # pixels: the warps are exercised


def test_part_of_a_frame_is_warped_as_the_whole():
    features, frames = (
        np.random.default_rng(n).standard_normal((1, 24, 28, c)) for n, c in ((0, 12), (1, 6))
    )
    model = VideoINR(features=4, hidden=(8, 8, 8))
    params, _ = random_decoder(model)
    whole, part = (slice(None), slice(None)), (slice(8, 24), slice(4, 28))  # the far corner

    def crop(place):
        return Encoded(*(np.float32(a[:, place[0], place[1]]) for a in (features, frames)))

    times = np.float32([[0.3]])
    want = decode(model, params, crop(whole), times, out_size=(60, 70))
    grid = videoinr.warp_grid((40, 60), origin=(20, 10), whole_size=(60, 70))
    got = decode(model, params, crop(part), times, out_size=(40, 60), grid=grid)
    inner = (0, 0, slice(12, -1), slice(12, -1))  # further in than any flow
    np.testing.assert_allclose(got[inner], want[:, :, 20:, 10:][inner], atol=1e-3)
    shifted = decode(model, params, crop(part), times, out_size=(40, 60))
    assert np.abs(shifted - want[:, :, 20:, 10:])[inner].max() > 0.01


@pytest.fixture(scope="module")
def unchunked(small):
    model, params, encoded = small
    return decode(model, params, encoded, TIMES, out_size=(12, 17))


@pytest.mark.parametrize("chunk_rows", [4, 5])
def test_chunked_decode_equals_unchunked(small, unchunked, chunk_rows):
    model, params, encoded = small
    got = decode(model, params, encoded, TIMES, out_size=(12, 17), chunk_rows=chunk_rows)
    np.testing.assert_allclose(got, unchunked, atol=1e-5)


def test_chunked_decode_has_the_unchunked_gradient(small):
    model, params, encoded = small
    factors = np.random.default_rng(1).standard_normal((2, 2, 11, 13, 3)).astype(np.float32)

    def loss(params, encoded, times, chunk_rows):
        kwargs = dict(out_size=(11, 13), chunk_rows=chunk_rows, method="decode")
        return jnp.sum(factors * model.apply({"params": params}, encoded, times, **kwargs))

    gradient = jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    want = gradient(params, encoded, TIMES, None)
    got = gradient(params, encoded, TIMES, 4)  # does not divide 11: the padded rows must not count
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)


def test_several_instants_equal_one_at_a_time(small):
    model, params, encoded = small
    together = decode(model, params, encoded, TIMES, out_size=(20, 19))
    decode_one = jit(functools.partial(model.apply, method="decode", out_size=(20, 19)))
    for t in range(2):
        alone = decode_one({"params": params}, encoded, TIMES[:, t : t + 1])
        np.testing.assert_allclose(together[:, t : t + 1], alone, atol=1e-5)
    assert np.abs(together[:, 0] - together[:, 1]).max() > 1e-2


def test_decode_in_bfloat16_is_float32_and_near(small):
    model, params, encoded = small
    want = decode(model, params, encoded, TIMES, out_size=(16, 24))
    got = decode(model.clone(dtype=jnp.bfloat16), params, encoded, TIMES, out_size=(16, 24))
    assert got.dtype == jnp.float32 and bool(jnp.all(jnp.isfinite(got)))
    assert 0 < np.abs(got - want).mean() < 0.1 * np.abs(want).mean()


def test_decode_by_the_kernel_of_samples_equals_that_by_their_values(monkeypatch):
    monkeypatch.setattr(sine_mlp_triton, "run", functools.partial(sine_mlp_triton.run, interpret=True))
    model = VideoINR(features=16, groups=2, hidden=(16, 16, 64), dtype=jnp.float16)
    params, encoded = random_decoder(model)
    for out_size, chunk_rows in (((12, 17), None), ((7, 9), 3)):
        want, got = (
            decode(
                model.clone(implementation=implementation),
                params,
                encoded,
                TIMES,
                out_size=out_size,
                chunk_rows=chunk_rows,
            )
            for implementation in ("xla", "pallas_triton")
        )
        np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
        assert np.linalg.norm(got - want) < 2e-3 * np.linalg.norm(want)


@pytest.mark.heavy
@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels are written for jax 0.11 and later")
def test_decode_by_the_kernels_of_hopper_gpus_equals_that_of_xla_and_so_do_its_gradients(monkeypatch):
    from jax.experimental.pallas import mosaic_gpu

    from stvsr_jax.ops.sine_mlp import api as module
    from stvsr_jax.ops.sine_mlp import mosaic as sine_mlp_mosaic

    for name in ("run", "run_backward"):
        options = dict(interpret=mosaic_gpu.InterpretGPUParams())
        monkeypatch.setattr(
            sine_mlp_mosaic, name, functools.partial(getattr(sine_mlp_mosaic, name), **options)
        )
    # `ops.sine_mlp` is the function, not its module.
    monkeypatch.setattr(sys.modules[module.__module__], "count_mosaic_sms", lambda: 1)
    model = VideoINR(features=64, dtype=jnp.float16, implementation="xla")
    params, encoded = random_decoder(model)
    # In-between positions: a sample at the very border of a pixel has another slope on its other side.
    cotangent = np.random.default_rng(0).standard_normal((2, 2, 4, 5, 3)).astype(np.float32)

    def run(implementation):
        decoder = model.clone(implementation=implementation)

        def loss(params, encoded):
            out = decoder.apply({"params": params}, encoded, TIMES, out_size=(4, 5), method="decode")
            return jnp.sum(out * cotangent), out

        (_, out), gradients = jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, encoded)
        rows = decode(decoder, params, encoded, TIMES, out_size=(4, 5), chunk_rows=3)
        return out, rows, gradients

    want, got = run("xla"), run("pallas_mosaic")
    for value, reference in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        norm = np.linalg.norm(reference)
        assert norm > 0 and np.linalg.norm(value - reference) < 2e-2 * norm


def test_whole_network_is_encode_then_decode():
    model = VideoINR(features=8, groups=2, front_blocks=1, back_blocks=1, hidden=(8, 8, 8))
    frames = np.random.default_rng(0).uniform(size=(1, 2, 8, 8, 3)).astype(np.float32)
    times = np.array([[0.0, 0.5, 0.7]], np.float32)
    variables = jax.eval_shape(
        functools.partial(model.init, out_size=(5, 5)), jax.random.key(0), frames, times
    )
    assert set(variables["params"]) == {"encoder", "space", "motion", "colour"}
    out = jax.eval_shape(
        functools.partial(model.apply, out_size=(27, 37), chunk_rows=10), variables, frames, times
    )
    assert out.shape == (1, 3, 27, 37, 3) and out.dtype == jnp.float32
    encoded = jax.eval_shape(functools.partial(model.apply, method="encode"), variables, frames)
    assert encoded.features.shape == (1, 8, 8, 24) and encoded.frames.shape == (1, 8, 8, 6)


@pytest.mark.parametrize(
    "shape", [(1, 3, 8, 8, 3), (1, 1, 8, 8, 3), (2, 8, 8, 3), (1, 2, 8, 10, 3), (1, 2, 8, 8, 1)]
)
def test_encode_names_frames_of_a_wrong_shape(shape):
    model = VideoINR(features=8, groups=2, front_blocks=1, back_blocks=1)
    with pytest.raises(ValueError, match="frames"):
        jax.eval_shape(functools.partial(model.init, method="encode"), jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("times", "kwargs", "named"),
    [
        ((2,), dict(out_size=(8, 8)), r"\(2,\)"),
        ((1, 2), dict(out_size=(8, 8)), r"B = 2.*\(1, 2\)"),
        ((2, 1), dict(out_size=(1, 8)), r"out_size.*\(1, 8\)"),
        ((2, 1), dict(out_size=(8, 0)), r"out_size.*\(8, 0\)"),
        ((2, 1), dict(out_size=(8, 8), chunk_rows=0), "chunk_rows.*0"),
        ((2, 1), dict(out_size=(8, 8), chunk_rows=-3), "chunk_rows.*-3"),
    ],
)
def test_decode_names_wrong_arguments(small, times, kwargs, named):
    model, params, encoded = small
    with pytest.raises(ValueError, match=named):
        decode(model, params, encoded, jnp.zeros(times), **kwargs)


def find_tables(jaxpr, loops=0):
    """Yields, for each table of pixel pairs that a program makes, in how many loops it does."""
    for equation in jaxpr.eqns:
        shapes = [v.aval.shape for v in (*equation.invars[:1], *equation.outvars)]
        if equation.primitive.name == "custom_vjp_call" and len(shapes) == 2:
            if shapes[1] == (*shapes[0][:-1], 2 * shapes[0][-1] if shapes[0] else 0):
                yield loops
                continue
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from find_tables(inner, loops + (equation.primitive.name == "scan"))


@pytest.mark.parametrize("chunk_rows", [4, 5])
def test_a_tpu_decodes_the_same_and_makes_tables_once(small, unchunked, chunk_rows):
    model, params, encoded = small
    decoder = functools.partial(model.apply, method="decode", out_size=(12, 17), chunk_rows=chunk_rows)
    device = AbstractDevice(device_kind="any", num_cores=None, platform="tpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=device)):
        traced = jit(decoder).trace({"params": params}, encoded, TIMES)
    assert sorted(find_tables(traced.jaxpr)) == [
        0,
        0,
        1,
    ]  # of low resolution; of each instant, not of its chunks
    lowered = traced.lower(lowering_platforms=("cpu",))
    got = lowered.compile(device_assignment=(jax.devices()[0],))({"params": params}, encoded, TIMES)
    np.testing.assert_allclose(got, unchunked, atol=1e-5)
