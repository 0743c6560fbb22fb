"""The names of JAX that the hand-written kernels lean on and that it promises nobody: a new JAX that lacks some fails
here, by name, before it fails on a GPU.
"""

import ast
import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

import stvsr_jax
from stvsr_jax.ops import triton
from stvsr_jax.runtime import kernel_compiler

PACKAGE = pathlib.Path(stvsr_jax.__file__).parent
OPS = PACKAGE / "ops"
# The one module that imports Mosaic GPU below Pallas, and what it calls it.
PRIVATE, MOSAIC = "stvsr_jax.ops.mosaic.private", "jax.experimental.mosaic.gpu"
# Imports that module for what it registers with XLA, and takes no name of it.
LINKS = PACKAGE / "runtime" / "kernel_compiler.py"
# By (major, minor): the call of Mosaic GPU, and the attributes of it that a program of one kernel needs.
CALLS = {
    (0, 11): ("mosaic_gpu_v2", ATTRIBUTES_11 := {"kernel_hash", "module", "use_custom_barrier"}),
    (0, 12): ("mosaic_gpu_v2", ATTRIBUTES_11),
}


def names_used(file):
    """Return (module, name) of everything that a file takes from Pallas and Mosaic."""
    tree = ast.parse(file.read_text())
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax.experimental"):
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == PRIVATE:
            modules |= {alias.name: MOSAIC for alias in node.names if alias.name == "mgpu"}
    found = set()
    for node in ast.walk(tree):
        is_attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if is_attribute and node.value.id in modules:
            found.add((modules[node.value.id], node.attr))
    return found


def missing_names(files):
    missing = []
    for file in files:
        for module, name in sorted(names_used(file)):
            try:
                getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError):
                missing.append(f"{file.name}: {module}.{name}")
    return missing


def test_names_are_found_in_the_source(tmp_path):
    source = "from jax.experimental import pallas as pl\npl.cdiv(1, 2)\npl.no_such_name.x()\njax.numpy.sin\n"
    (tmp_path / "a.py").write_text(source)
    assert missing_names([tmp_path / "a.py"]) == ["a.py: jax.experimental.pallas.no_such_name"]


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")
def test_mosaic_has_every_name_that_the_kernels_use():
    files = sorted([*OPS.glob("*/mosaic*.py"), *OPS.glob("mosaic/[!_]*.py")])
    assert sum(bool(names_used(file)) for file in files) >= 8
    assert missing_names(files) == []


def test_what_is_private_to_mosaic_is_in_one_file():
    others = [file for file in PACKAGE.rglob("*.py") if file != OPS / "mosaic" / "private.py"]
    for file in others:
        assert file == LINKS or "jax.experimental.mosaic" not in file.read_text(), file
        assert not [name for _, name in names_used(file) if name.startswith("_")], file
    assert MOSAIC not in {module for module, _ in names_used(LINKS)}


def test_triton_has_every_name_that_the_kernels_use():
    files = sorted(OPS.glob("*/triton.py"))
    backend = "jax.experimental.pallas.triton"
    used = {name for file in files for module, name in names_used(file) if module == backend}
    assert used == set(triton.NAMES)
    if triton.why_missing() is None:
        assert missing_names(files) == []


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="the kernels need jax 0.11")
def test_kernels_are_found_in_lowered_programs():
    version = jax.__version_info__[:2]
    assert version in CALLS, f"jax {version} is new: try the kernels on a GPU, then add it to CALLS"
    target, attributes = CALLS[version]
    assert kernel_compiler._TARGET == target
    device = AbstractDevice("NVIDIA H200", 132, "gpu")
    mesh = AbstractMesh((1,), ("d",), axis_types=(AxisType.Auto,), abstract_device=device)
    from stvsr_jax import ops

    x, kernel = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((1, 32, 32, 64), (3, 3, 64, 64)))
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = jax.jit(ops.conv2d).trace(x, kernel).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert f"@{target}" in text, f"the kernel's call is not {target}: {text[:2000]}"
    (found,) = kernel_compiler.find_kernels(lowered)
    assert attributes <= set(found.attributes), f"missing {attributes - set(found.attributes)}"
    assert kernel_compiler.find_kernels(kernel_compiler.lower_alone(found)) == [found]
