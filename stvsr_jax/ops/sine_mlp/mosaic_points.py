"""64 points of a SIREN MLP through all layers, and back, in the registers of a warpgroup.

An activation is a list of chunks of 64 channels, each an A operand of wgmma.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from jax import lax

from stvsr_jax.ops.mosaic import points
from stvsr_jax.ops.mosaic.layout import NARROW
from stvsr_jax.ops.mosaic.windows import CHUNK


def run_forward(point_ops, layers, terms, wide, out_ref, point):
    """Takes 64 points through all layers."""
    x = point_ops.zeros()
    for term in terms:
        x = point_ops.add_rows(x, term, point)
    if wide:
        chunks = [point_ops.round(point_ops.add_rows(point_ops.zeros(), y, point)) for y in wide]
        x = point_ops.multiply(x, chunks, [rows.at[:, :] for rows in layers.rows])
    chunks = [point_ops.activate(x, layers.bias(0, 0))]
    top = len(layers.kernels) - 1
    for layer in range(1, top):
        chunks = [
            point_ops.activate(layers.multiply(point_ops, chunks, layer, j), layers.bias(layer, j))
            for j in range(layers.chunks(layer))
        ]

    # The last hidden layer is the widest: only one of its chunks is in registers at a time.
    def add_chunk(j, out):
        chunk = point_ops.activate(layers.multiply(point_ops, chunks, top, j), layers.bias(top, j))
        return point_ops.multiply_last(out, chunk, layers.last(j))

    out = lax.fori_loop(0, layers.chunks(top), add_chunk, point_ops.zero_outputs())
    point_ops.store_outputs(out, layers.last_bias(), out_ref, point)


class Backward(NamedTuple):
    """64 points on their way up, with activations stored, and down, with gradients.

    Attributes:
      point_ops: what can be done with 64 points.
      layers: the weights.
      x_ref: [P, 64], the argument of the first sines without bias.
      kept_refs: where activations, then gradients before them but the first, are stored in 16 bits.
      totals: [chunks of all layers, warps, 64] in shared memory, for the gradients w.r.t. the biases.
      point: the first of the 64.
    """

    point_ops: points.PointOps
    layers: Any
    x_ref: Any
    kept_refs: Any
    totals: Any
    point: Any

    def run(self, above_ref, d_x_ref):
        """Runs.

        Args:
          above_ref: gradient w.r.t. the outputs, [P, 16 or 64] in 16 bits.
          d_x_ref: [P, 64], for the gradient w.r.t. x.
        """
        point_ops, layers, point = self.point_ops, self.layers, self.point
        top = len(layers.kernels) - 1
        activations = []
        for layer in range(top):
            activations.append([self._activate(activations, layer, j) for j in range(layers.chunks(layer))])
        if above_ref.shape[1] == NARROW:
            above = point_ops.read_narrow(above_ref, point)
        else:
            above = point_ops.round(point_ops.add_rows(point_ops.zeros(), above_ref, point))

        def differentiate_outputs(j):
            self._activate(activations, top, j)
            return point_ops.multiply_first(point_ops.zeros(), above, layers.last(j))

        gradient = differentiate_outputs
        for layer in range(top, 0, -1):
            gradient = self._pass_layer(activations, layer, gradient)
        self._differentiate(activations, 0, 0, gradient(0), lambda g: point_ops.store(g, d_x_ref, point))

    def _accumulate(self, activations, layer, j):
        """Returns chunk j of the arguments of a layer's sines, without bias and frequency."""
        if layer == 0:
            return self.point_ops.add_rows(self.point_ops.zeros(), self.x_ref, self.point)
        return self.layers.multiply(self.point_ops, activations[layer - 1], layer, j)

    def _activate(self, activations, layer, j):
        """Returns and stores chunk j of an activation."""
        chunk = self.point_ops.activate(self._accumulate(activations, layer, j), self.layers.bias(layer, j))
        self.point_ops.store_operand(chunk, self.kept_refs[layer], self.point, j * CHUNK)
        return chunk

    def _differentiate(self, activations, layer, j, gradient, store):
        """Returns `store` of chunk j of the gradient before the sines; adds it to the bias' gradient."""
        acc = self._accumulate(activations, layer, j)
        gradient = self.point_ops.differentiate(gradient, acc, self.layers.bias(layer, j))
        totals = self.totals.at[self.layers.first_chunk(layer) + j]
        self.point_ops.add_columns(gradient, totals, self.point)
        return store(gradient)

    def _pass_layer(self, activations, layer, gradient: Callable[[Any], Any]):
        """Returns the gradient w.r.t. the activation below from that w.r.t. this layer's; both are functions of the chunk."""
        point_ops, layers = self.point_ops, self.layers
        kept_ref = self.kept_refs[len(layers.kernels) + layer - 1]

        def store(j, g):
            g = point_ops.round(g)
            point_ops.store_operand(g, kept_ref, self.point, j * CHUNK)
            return g

        def pass_chunk(j):
            return self._differentiate(activations, layer, j, gradient(j), functools.partial(store, j))

        if layers.chunks(layer - 1) == 1:

            def add_chunk(j, total):
                return point_ops.multiply_transposed(total, [pass_chunk(j)], [layers.part(layer, 0, j)])

            total = lax.fori_loop(0, layers.chunks(layer), add_chunk, point_ops.zeros())
            return lambda _: total
        chunks = [pass_chunk(j) for j in range(layers.chunks(layer))]
        return lambda k: point_ops.multiply_transposed(
            point_ops.zeros(), chunks, [layers.part(layer, k, j) for j in range(len(chunks))]
        )
