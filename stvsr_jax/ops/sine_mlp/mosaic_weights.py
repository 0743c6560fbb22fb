"""The weights of a SIREN MLP in the shared memory of a Hopper GPU."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from stvsr_jax.ops.mosaic.layout import AS_NARROW_TILES, NARROW, reorder
from stvsr_jax.ops.mosaic.windows import AS_TILES, CHUNK


class Weights(NamedTuple):
    """All weights as arrays, their channels in the order of `layout.reorder`.

    Attributes:
      arrays: rows of inputs, kernels, and all biases in one [.., 64].
      inputs: how many arrays are rows of inputs.
      widths: of all layers but the outputs.
    """

    arrays: list[jax.Array]
    inputs: int
    widths: tuple[int, ...]

    @classmethod
    def of(cls, rows, kernels, biases, frequency, dtype) -> "Weights":
        """Returns the weights; arguments as of `mosaic.run`. Hidden biases are multiplied by the frequency here."""
        last, last_bias = reorder(kernels[-1], 0), biases[-1]
        outputs = last.shape[1]
        if outputs <= NARROW:
            last = jnp.pad(last, ((0, 0), (0, NARROW - outputs)))
            last_bias = jnp.pad(last_bias, (0, CHUNK - outputs))
        else:
            last, last_bias = reorder(last, 1), reorder(last_bias, 0)
        matrices = [*(reorder(a, 0, 1) for a in (*rows, *kernels[:-1])), last]
        biases = [*(reorder(frequency * b, 0) for b in biases[:-1]), last_bias]
        biases = jnp.concatenate([b.astype(jnp.float32) for b in biases]).reshape(-1, CHUNK)
        arrays = [*(a.astype(dtype) for a in matrices), biases]
        return cls(arrays=arrays, inputs=len(rows), widths=tuple(len(k) for k in kernels))

    def scratch(self):
        """Returns the shared memory that they take."""
        matrices = [
            plgpu.SMEM(a.shape, a.dtype, transforms=AS_NARROW_TILES if a.shape[1] == NARROW else AS_TILES)
            for a in self.arrays[:-1]
        ]
        return [*matrices, plgpu.SMEM(self.arrays[-1].shape, jnp.float32)]

    def fetch(self, refs, held, full, wg):
        """Fetches them into shared memory: warpgroup 0 for all, and each waits."""

        def copy_all():
            for source, target in zip(refs, held, strict=True):
                plgpu.copy_gmem_to_smem(source, target, full)

        lax.switch(lax.min(wg, 1), [copy_all, lambda: None])
        plgpu.barrier_wait(full)

    def split(self, held) -> "Layers":
        """Returns them layer by layer, from what `scratch` became."""
        return Layers(
            rows=held[: self.inputs],
            kernels=held[self.inputs : -1],
            biases=held[-1],
            widths=self.widths,
        )


class Layers(NamedTuple):
    """The weights in shared memory. Layer i makes activation i, from the one below and kernel i - 1."""

    rows: list[Any]
    kernels: list[Any]
    biases: Any
    widths: tuple[int, ...]

    def chunks(self, layer):
        return self.widths[layer] // CHUNK

    def first_chunk(self, layer):
        return sum(self.widths[:layer]) // CHUNK

    def bias(self, layer, chunk):
        return self.biases.at[self.first_chunk(layer) + chunk]

    def last_bias(self):
        return self.biases.at[self.first_chunk(len(self.widths))]

    def part(self, layer, k, j):
        """Returns the weights from chunk k of the activation below to chunk j of the layer's."""
        return self.kernels[layer - 1].at[pl.ds(k * CHUNK, CHUNK), pl.ds(j * CHUNK, CHUNK)]

    def last(self, chunk):
        return self.kernels[-1].at[pl.ds(chunk * CHUNK, CHUNK), :]

    def multiply(self, point_ops, below, layer, j):
        """Returns chunk j of the product of the activation below with the layer's weights."""
        return point_ops.multiply(
            point_ops.zeros(), below, [self.part(layer, k, j) for k in range(len(below))]
        )
