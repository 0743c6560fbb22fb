"""SIREN MLPs: multi-layer perceptrons with sine activations (SIREN; Sitzmann et al., NeurIPS 2020, arXiv 2006.09661).

The first layer reads a concatenation of named inputs. It is linear. So an input can be multiplied with its rows of the
kernel before it is resampled (`project`), and the products are added afterwards: 64 channels are sampled, not all.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models.layers import fan_in_uniform

FREQUENCY = 30.0  # omega_0 of the paper


@flax.struct.dataclass
class SirenWeights:
    """The parameters of one SIREN as plain arrays.

    Attributes:
      rows: input name -> its rows [channels, width] of the first kernel.
      kernels: kernels of the later layers, [in, out].
      biases: biases of all layers, [out].
    """

    rows: Mapping[str, jax.Array]
    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]


class Siren(nn.Module):
    """Declares the parameters of a SIREN.

    Attributes:
      inputs: (name, channels) of each input, in the order of the first kernel's rows.
      widths: hidden widths, then the number of outputs.
    """

    inputs: tuple[tuple[str, int], ...]
    widths: tuple[int, ...]

    @nn.compact
    def __call__(self) -> SirenWeights:
        """Returns the weights."""
        sizes = (sum(channels for _, channels in self.inputs), *self.widths)
        kernels, biases = [], []
        for i, (fan_in, width) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            bound = 1.0 / fan_in if i == 0 else (6.0 / fan_in) ** 0.5 / FREQUENCY
            kernels.append(self.param(f"kernel{i}", _uniform(bound), (fan_in, width)))
            biases.append(self.param(f"bias{i}", fan_in_uniform(fan_in), (width,)))
        rows, start = {}, 0
        for name, channels in self.inputs:
            rows[name] = kernels[0][start : start + channels]
            start += channels
        return SirenWeights(rows, tuple(kernels[1:]), tuple(biases))


def _uniform(bound):
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def project(weights: SirenWeights, dtype: Any = jnp.float32, **inputs: jax.Array) -> jax.Array:
    """Returns the sum of the named inputs' products with their rows of the first kernel.

    Args:
      weights: of the SIREN.
      dtype: of the operands; the sum is float32.
      **inputs: name -> [..., channels].

    Returns:
      [..., width] float32, without the bias.
    """
    return sum(_matmul(x, weights.rows[name], dtype) for name, x in inputs.items())


def finish(
    weights: SirenWeights,
    projected: jax.Array | ops.Samples | tuple[jax.Array | ops.Samples, ...],
    dtype: Any = jnp.float32,
    *,
    out_dtype: Any = jnp.float32,
    implementation: str | None = None,
    **inputs: jax.Array | ops.Samples,
) -> jax.Array:
    """Runs the rest of the network on the sum of projections.

    Args:
      weights: of the SIREN.
      projected: [..., width], sum of `project` over the other inputs, or its terms.
      dtype: of the matrix products' operands; sines and accumulators are float32.
      out_dtype: of the result.
      implementation: of `ops.sine_mlp`.
      **inputs: name -> [..., channels], those that are not projected yet; leading axes broadcast.

    Returns:
      [..., outputs] in out_dtype.
    """
    return ops.sine_mlp(
        projected,
        weights.kernels,
        weights.biases,
        frequency=FREQUENCY,
        inputs=[(x, weights.rows[name]) for name, x in inputs.items()],
        dtype=dtype,
        out_dtype=out_dtype,
        implementation=implementation,
    )


def _matmul(x, kernel, dtype):
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)
