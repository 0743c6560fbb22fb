"""Every op that has kernels: what is asked for by name is what runs, wherever that is, or a clear error."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from stvsr_jax import ops
from stvsr_jax.ops.arrange import api as arrange
from stvsr_jax.ops.conv import api as conv
from stvsr_jax.ops.deform_conv import api as deform_conv
from stvsr_jax.ops.resize import api as resize
from stvsr_jax.ops.sine_mlp import api as sine_mlp

DEVICES = {
    "cpu": ("any", "cpu"),
    "tpu": ("any", "tpu"),
    "a100": ("NVIDIA A100", "cuda"),
    "h100": ("NVIDIA H100", "cuda"),
}
# What a program calls its kernels.
CALLS = {"pallas_mosaic": "@mosaic_gpu", "pallas_tpu": "@tpu_custom_call", "pallas_triton": "triton"}
HAS_MOSAIC = jax.__version_info__ >= (0, 11)


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def run_deform_conv2d(x, offset, mask, kernel, **options):
    return ops.deform_conv2d(x, offset, mask, kernel, **options)


def run_sine_mlp(x, kernels, biases, **options):
    return ops.sine_mlp(x.astype(jnp.float32), kernels, biases, frequency=30.0, dtype=jnp.bfloat16, **options)


IMAGE = image(1, 16, 16, 64)
HEAD = image(1, 16, 16, 27 * 8)
OFFSETS = image(1, 16, 16, 8, 9, 2), image(1, 16, 16, 8, 9)
WIDTHS = (64, 64, 256, 256, 8)
LAYERS = (
    [image(*sizes) for sizes in zip(WIDTHS, WIDTHS[1:], strict=False)],
    [jax.ShapeDtypeStruct((n,), jnp.float32) for n in WIDTHS],
)
# The op, operands that all of its kernels support, and its implementations.
OPS = {
    "conv2d": (ops.conv2d, (IMAGE, image(3, 3, 64, 64)), conv.IMPLEMENTATIONS),
    "arrange": (
        functools.partial(ops.arrange, lambda *images: jnp.stack(images)),
        (IMAGE, IMAGE),
        arrange.IMPLEMENTATIONS,
    ),
    "upsample_bilinear_2x": (ops.upsample_bilinear_2x, (IMAGE,), resize.IMPLEMENTATIONS),
    "sine_mlp": (run_sine_mlp, (image(512, 64), *LAYERS), sine_mlp.IMPLEMENTATIONS),
    "deform_conv2d": (
        run_deform_conv2d,
        (IMAGE, *OFFSETS, image(3, 3, 64, 64)),
        deform_conv.IMPLEMENTATIONS,
    ),
    "deform_columns": (
        functools.partial(ops.deform_columns, groups=8),
        (IMAGE, HEAD),
        deform_conv.IMPLEMENTATIONS,
    ),
    "deform_conv2d_of_head": (
        functools.partial(ops.deform_conv2d_of_head, groups=8),
        (IMAGE, HEAD, image(1, 1, 9 * 64, 64), image(64)),
        deform_conv.HEAD_IMPLEMENTATIONS,
    ),
}
every_op = pytest.mark.parametrize("op", OPS)


def program_of(op, device, implementation):
    """Returns the program of an op, lowered for a device that need not be here."""
    function, operands, _ = OPS[op]
    kind, platform = DEVICES[device]
    described = AbstractDevice(device_kind=kind, num_cores=132, platform=platform)
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("device",), abstract_device=described)):
        options = {"implementation": implementation} if implementation else {}
        traced = jax.jit(lambda *operands: function(*operands, **options)).trace(*operands)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def kernels_in(program):
    return {name for name, call in CALLS.items() if call in program}


# Where a kernel runs.
HOMES = {"pallas_mosaic": ("h100",), "pallas_tpu": ("tpu",), "pallas_triton": ("a100", "h100")}
NAMED = [(op, name) for op, (*_, names) in OPS.items() for name in names]


@pytest.mark.parametrize(("op", "name"), NAMED)
def test_the_implementation_that_is_named_runs_and_no_other(op, name):
    if name == "pallas_mosaic" and not HAS_MOSAIC:
        pytest.skip("the kernels are written for Mosaic GPU of jax 0.11 and later")
    if name in HOMES:
        for device in HOMES[name]:
            kernels = kernels_in(program_of(op, device, name))
            assert name in kernels
            # The product of columns that are named is a convolution of its own.
            assert kernels <= ({name, "pallas_mosaic"} if op == "deform_conv2d_of_head" else {name})
    else:
        for device in ("tpu", "h100", "cpu"):
            kernels = kernels_in(program_of(op, device, name))
            assert kernels <= ({"pallas_mosaic"} if op == "deform_conv2d_of_head" else set())


@pytest.mark.parametrize(("op", "name"), [(op, name) for op, name in NAMED if name in HOMES])
def test_a_kernel_that_the_device_cannot_run_is_an_error(op, name):
    """But Triton's on a CPU, which interprets them in tests: there the lowering says so."""
    others = DEVICES.keys() - set(HOMES[name])
    for device in others - {"cpu"} if name == "pallas_triton" else others:
        with pytest.raises(NotImplementedError, match=f": {name} "):
            program_of(op, device, name)


@every_op
def test_a_wrong_name_is_an_error_that_lists_the_right_ones(op):
    *_, names = OPS[op]
    with pytest.raises(ValueError, match="implementation 'fast' is not one of ") as error:
        program_of(op, "cpu", "fast")
    assert str(error.value).endswith(", ".join(sorted(names)))
    assert str(error.value).startswith("deform_conv2d: " if op == "deform_columns" else f"{op}: ")


@every_op
def test_without_a_name_each_device_gets_its_kernels_and_others_none(op):
    *_, names = OPS[op]
    assert kernels_in(program_of(op, "cpu", None)) == set()
    assert kernels_in(program_of(op, "tpu", None)) == ({"pallas_tpu"} & set(names))
    assert kernels_in(program_of(op, "a100", None)) == ({"pallas_triton"} & set(names))
    if HAS_MOSAIC:  # which is taken where an op has both
        best = {"pallas_mosaic"} if "pallas_mosaic" in names else {"pallas_triton"}
        assert kernels_in(program_of(op, "h100", None)) == best
