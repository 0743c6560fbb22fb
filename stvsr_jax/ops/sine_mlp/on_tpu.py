"""The SIREN MLP of a program for TPUs, with its gradients: of what the layers make only the first sum is kept."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from stvsr_jax.ops.devices import takes_tpu_kernels
from stvsr_jax.ops.lanes import from_lanes, to_lanes

# Of (x [..., C] float32, kernels, biases).
Layers = Callable[[jax.Array, Sequence[jax.Array], Sequence[jax.Array]], jax.Array]


class Options(NamedTuple):
    """What is static in a SIREN MLP; see `ops.sine_mlp`."""

    frequency: float
    dtype: Any
    out_dtype: Any


def has_kernels(kernels: Sequence[jax.Array], dtype: Any) -> bool:
    """Returns whether what is traced now runs on a TPU, and its kernels can run these layers."""
    if not takes_tpu_kernels():
        return False
    from stvsr_jax.ops.sine_mlp import tpu  # imports Mosaic, which other devices do not need

    return tpu.is_supported(kernels, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def run(
    plain: Layers,
    options: Options,
    x: jax.Array,
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array, ...],
) -> jax.Array:
    """Runs the layers, by the kernel where it is lowered for a TPU.

    Args:
      plain: the same, for other platforms.
      options: of the layers.
      x: [..., C_0] float32.
      kernels: [C_i, C_{i+1}].
      biases: [C_i], one more.

    Returns:
      [..., C_n].
    """

    def by_kernel(x, kernels, biases):
        from stvsr_jax.ops.sine_mlp import tpu

        return from_lanes(tpu.run(to_lanes(x), kernels, biases, **options._asdict()), x.shape[:-1])

    return jax.lax.platform_dependent(x, kernels, biases, tpu=by_kernel, default=plain)


def _forward(plain, options, x, kernels, biases):
    return run(plain, options, x, kernels, biases), (to_lanes(x), kernels, biases)


def _backward(plain, options, residuals, cotangent):
    shape = cotangent.shape[:-1]

    def by_kernel(x, kernels, biases, cotangent):
        from stvsr_jax.ops.sine_mlp import tpu

        gradients = tpu.run_backward(
            x, kernels, biases, cotangent, frequency=options.frequency, dtype=options.dtype
        )
        return jax.tree.map(lambda d, a: d.astype(a.dtype), gradients, (x, kernels, biases))

    def by_definition(x, kernels, biases, cotangent):
        _, vjp = jax.vjp(plain, from_lanes(x, shape), kernels, biases)
        d_x, *rest = vjp(from_lanes(cotangent, shape))
        return to_lanes(d_x), *rest

    d_x, d_kernels, d_biases = jax.lax.platform_dependent(
        *residuals, to_lanes(cotangent), tpu=by_kernel, default=by_definition
    )
    return from_lanes(d_x, shape), d_kernels, d_biases


run.defvjp(_forward, _backward)
