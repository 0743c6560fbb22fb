"""The gradient kernel of the TPU's deformable convolution over several blocks, interpreted on the CPU."""

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax import ops
from stvsr_jax.ops.deform_conv import tpu, tpu_backward


def test_gradients_of_neighbouring_blocks_are_added(monkeypatch):
    monkeypatch.setattr(tpu, "_BLOCK", 128)
    size = (9, 13)
    plan = tpu.Plan.of(2 * 9 * 13, size)
    assert plan.count == 2
    rng = np.random.default_rng(0)
    shapes = [(2, *size, 64), (2, *size, 216), (576, 64), (2, *size, 64)]
    x, head, kernel, cotangent = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    head = jnp.clip(head, -1.99, 1.99)

    @jax.jit
    def run(x, head, kernel, cotangent):
        lanes = [a.reshape(-1, a.shape[-1]).T for a in (x, head, cotangent)]
        image = tpu.pad(plan, lanes[0])
        centre = jnp.zeros(2, jnp.int32)
        gradients = tpu_backward.run(plan, centre, image, lanes[1], kernel, lanes[2], interpret=True)
        d_x = tpu.unpad(plan, gradients[0])
        return d_x.T.reshape(x.shape), gradients[1].T.reshape(head.shape), gradients[2]

    def definition(x, head, kernel):
        return ops.deform_columns(x, head, groups=8, implementation="gather") @ kernel

    want = jax.vjp(definition, x, head, kernel)[1](cotangent)
    options = {"xla_backend_optimization_level": "0"}  # else it compiles for a minute
    compiled = run.lower(x, head, kernel, cotangent).compile(compiler_options=options)
    for a, b in zip(compiled(x, head, kernel, cotangent), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
