"""The Triton back end of Pallas is used where it is needed, and not missed where JAX has it no more."""

import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from stvsr_jax.ops import triton

# The operations that have kernels, run on a CPU, then traced for an A100.
SCRIPT = """
import sys, warnings

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("jax.experimental.pallas.triton", "jax._src.pallas.triton")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

if sys.argv[1] == "hidden":
    sys.meta_path.insert(0, Hidden())

import jax, jax.numpy as jnp
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from stvsr_jax import ops

x = jnp.ones((1, 4, 4, 64), jnp.bfloat16)
head = jnp.ones((1, 4, 4, 54))
kernels = [jnp.ones(shape, jnp.bfloat16) for shape in ((16, 16), (16, 64), (64, 3))]
biases = [jnp.ones(width) for width in (16, 16, 64, 3)]

def run(x, head):
    y = ops.upsample_bilinear_2x(ops.deform_columns(x, head, groups=2)[..., :64])
    z = y[..., :16].astype(jnp.float32)
    return ops.sine_mlp(z, kernels, biases, frequency=30.0, dtype=jnp.bfloat16)

print(bool(jnp.isfinite(run(x, head)).all()))
print("on a CPU:", any(name.startswith("jax._src.pallas.triton") for name in sys.modules))
device = AbstractDevice("NVIDIA A100", 108, "cuda")
with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("d",), axis_types=(AxisType.Auto,), abstract_device=device)):
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        gradient = jax.jit(jax.grad(lambda *operands: run(*operands).sum()))
        lowered = gradient.trace(x, head).lower(lowering_platforms=("cuda",))
    try:
        jax.eval_shape(lambda *a: ops.deform_columns(*a, groups=2, implementation="pallas_triton"), x, head)
    except NotImplementedError as error:
        print(error)
print("kernels:", "triton" in lowered.as_text().lower())
for warning in noted:
    print("warning:", warning.message)
"""


@pytest.mark.parametrize("which", ["there", "hidden"])
def test_operations_run_with_and_without_it(which):
    done = subprocess.run([sys.executable, "-c", SCRIPT, which], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["True", "on a CPU: False"]
    warned = [line for line in lines if line.startswith("warning:") and "riton" in line]
    if which == "there":
        assert "kernels: True" in lines and not warned
    else:
        assert "kernels: False" in lines
        assert re.search("deform_conv2d: pallas_triton cannot run: jax .* has no Triton back end", lines[2])
        (line,) = warned  # once, for many operations
        assert "some operations run slower: jax" in line and "has no Triton back end" in line


def test_its_deprecation_is_not_told_to_users():
    from stvsr_jax.ops.resize import upsample_bilinear_2x

    device = AbstractDevice("NVIDIA A100", 108, "cuda")
    mesh = AbstractMesh((1,), ("d",), axis_types=(AxisType.Auto,), abstract_device=device)
    x = jax.ShapeDtypeStruct((1, 4, 4, 64), jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(mesh), warnings.catch_warnings():
        warnings.simplefilter("error")
        traced = jax.jit(upsample_bilinear_2x).trace(x)
        assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text().lower()


def test_a_back_end_without_a_name_that_is_used_counts_as_missing(monkeypatch):
    from jax.experimental.pallas import triton as backend

    monkeypatch.delattr(backend, "dot")
    triton.why_missing.cache_clear()
    try:
        with pytest.raises(
            NotImplementedError, match="op: pallas_triton cannot run: jax .* has no dot in its"
        ):
            triton.require("op")
    finally:
        triton.why_missing.cache_clear()
