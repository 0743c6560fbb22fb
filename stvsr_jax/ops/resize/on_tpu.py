"""Doubling and halving in a program for TPUs, with its gradients, where XLA moves each pixel several times."""

import functools
from collections.abc import Callable

import jax

from stvsr_jax.ops.devices import takes_tpu_kernels
from stvsr_jax.ops.lanes import from_lanes, to_lanes


def has_kernels(x: jax.Array) -> bool:
    """Returns whether what is traced now runs on a TPU, and its kernel can read [B, H, W, C]."""
    if not takes_tpu_kernels():
        return False
    from stvsr_jax.ops.resize import tpu  # imports Mosaic, which other devices do not need

    return tpu.is_supported(x)


def double(plain: Callable[[jax.Array], jax.Array], x: jax.Array, scale: float) -> jax.Array:
    """Returns `plain(x)`, by the kernel where it is lowered for a TPU: `ops.upsample_bilinear_2x`."""
    from stvsr_jax.ops.resize import tpu

    return _run(tpu.double(x.shape[1:3], scale), plain, x)


def halve(x: jax.Array) -> jax.Array:
    """Returns every second row and column of [B, H, W, C], H and W even."""
    from stvsr_jax.ops.resize import tpu

    return _run(tpu.halve(x.shape[1:3]), _halve, x)


def _halve(x):
    return x[:, ::2, ::2]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(grid, plain, x):
    def by_kernel(x):
        from stvsr_jax.ops.resize import tpu

        return from_lanes(tpu.run(grid, to_lanes(x)), (len(x), *grid.out_size))

    return jax.lax.platform_dependent(x, tpu=by_kernel, default=plain)


def _backward(grid, plain, _, cotangent):
    shape = (len(cotangent), *grid.size)

    def by_kernel(cotangent):
        from stvsr_jax.ops.resize import tpu

        return from_lanes(tpu.run(grid, to_lanes(cotangent), is_transposed=True), shape)

    def by_definition(cotangent):
        x = jax.ShapeDtypeStruct((*shape, cotangent.shape[-1]), cotangent.dtype)
        return jax.linear_transpose(plain, x)(cotangent)[0]

    return (jax.lax.platform_dependent(cotangent, tpu=by_kernel, default=by_definition),)


_run.defvjp(lambda grid, plain, x: (_run(grid, plain, x), None), _backward)
