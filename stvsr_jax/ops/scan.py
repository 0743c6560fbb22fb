"""A scan over time that takes the gradients w.r.t. convolution kernels once, from all times together.

The VJP of `jax.lax.scan` makes a gradient w.r.t. every weight in every step and adds it to a running total. For small
frames these are many small kernels. Here a step's convolutions keep what they have read and the cotangent of what they
have made. After the loop one reduction over all T times makes the kernel's gradient: the same sum, rounded once.

A step reads its kernels through `ConvWeights.convolve` and `.deform`. While `scan` differentiates, it hands the step
`_DeferredWeights` in their place, which do the same and write down what the reduction needs.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stvsr_jax.ops.conv import conv2d, conv2d_deferred, conv2d_kernel_gradient
from stvsr_jax.ops.deform_conv import deform_columns, deform_conv2d_of_head
from stvsr_jax.ops.devices import loop_unroll, takes_tpu_kernels
from stvsr_jax.ops.lanes import pack, unpack


class ConvWeights(NamedTuple):
    """Kernel [k, k, C, C'] and bias [C'] of a convolution; of S convolutions [S, ...]."""

    kernel: jax.Array
    bias: jax.Array

    def convolve(self, inputs: tuple[jax.Array, ...], *, stride: int, padding: int, **epilogue) -> jax.Array:
        """Returns `ops.conv2d` with these weights."""
        return conv2d(inputs, self.kernel, stride, padding, bias=self.bias, **epilogue)

    def deform(self, x: jax.Array, head: jax.Array, *, groups: int, slope: float | None) -> jax.Array:
        """Returns `ops.deform_conv2d_of_head` with these weights, a kernel [1, 1, K C, C']."""
        return deform_conv2d_of_head(x, head, self.kernel, self.bias, groups=groups, slope=slope)


class _Place(NamedTuple):
    """Where a convolution stands in a step; static.

    Attributes:
      number: of its weights among all `ConvWeights` of the loop.
      stride, padding: of the convolution.
    """

    number: int
    stride: int
    padding: int


class _Record(NamedTuple):
    """What one step's convolutions leave behind, in their order."""

    places: list[_Place]
    inputs: list[tuple[jax.Array, ...]]
    outputs: list[jax.Array]
    probes: Iterator[jax.Array] | None


class _DeferredWeights:
    """`ConvWeights` in a step that `scan` differentiates. The kernel has a shape and a dtype but no value to read."""

    def __init__(self, weights: ConvWeights, number: int, record: _Record):
        self._kernel, self.bias = jax.lax.stop_gradient(weights.kernel), weights.bias
        self.kernel = jax.ShapeDtypeStruct(weights.kernel.shape, weights.kernel.dtype)
        self._number, self._record = number, record

    def convolve(self, inputs, *, stride, padding, shuffle=1, **epilogue):
        if shuffle != 1:
            raise NotImplementedError(
                "scan: a convolution with a pixel shuffle cannot be differentiated in a step"
            )
        record = self._record
        probe = None if record.probes is None else next(record.probes)
        y = conv2d_deferred(inputs, self._kernel, stride, padding, probe=probe, bias=self.bias, **epilogue)
        record.places.append(_Place(self._number, stride, padding))
        record.inputs.append(inputs)
        record.outputs.append(y)
        return y

    def deform(self, x, head, *, groups, slope):
        # The reduction reads the samples. The fused kernel keeps none, so they are made here, as columns.
        images, heads = (a.reshape(-1, *a.shape[-3:]) for a in (x, head))
        columns = deform_columns(images, heads, groups=groups).reshape(*head.shape[:-1], -1)
        return self.convolve((columns.astype(self.kernel.dtype),), stride=1, padding=0, slope=slope)


def scan(
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    weights: Any,
    carry: Any,
    xs: Any,
    *,
    remat: bool = False,
) -> tuple[Any, Any]:
    """Loops like `jax.lax.scan`.

    Args:
      step: of (weights, carry, x), returns (next carry, y); it may close over no array.
      weights: a pytree of `ConvWeights` and other arrays, the same in every step. Other arrays, and biases, get their
        gradients as from `jax.lax.scan`.
      carry: before the first step.
      xs: a pytree of arrays [T, ...].
      remat: whether the backward pass computes each step again. Nothing is kept of a step then, its convolutions' inputs
        neither.

    Returns:
      The last carry and the stacked ys.
    """
    # TPU kernels make samples again: to keep the columns of all times would take most of the memory.
    if remat or takes_tpu_kernels():
        return _scan_packed(step, weights, carry, xs, remat)
    return _scan(step, weights, carry, xs)


def map_steps(step: Callable[[Any], Any], xs: Any) -> Any:
    """Loops like `jax.lax.map`: returns the stacked results of a step for each of xs, a pytree of arrays [T, ...]."""
    if not takes_tpu_kernels():
        return jax.lax.map(step, xs)
    return _scan_packed(lambda weights, carry, x: (carry, step(x)), (), (), xs, False)[1]


def _scan_packed(step, weights, carry, xs, remat):
    """The scan by `jax.lax.scan`, with the images of steps, [.., B, H, W, C], as `lanes.pack` says."""
    shapes = jax.tree.map(jnp.shape, carry), jax.tree.map(lambda x: x.shape[1:], xs)
    y_shapes = []

    def packed_step(weights, carry, x):
        carry, y = step(weights, *_unpack((carry, x), shapes))
        y_shapes[:] = [jax.tree.map(jnp.shape, y)]
        return jax.tree.map(pack, (carry, y))

    if remat:
        packed_step = jax.checkpoint(packed_step, prevent_cse=False)
    packed_xs = jax.tree.map(lambda x: pack(x) if x.ndim > 4 else x, xs)
    carry, ys = jax.lax.scan(functools.partial(packed_step, weights), jax.tree.map(pack, carry), packed_xs)
    return _unpack((carry, ys), (shapes[0], *y_shapes))


def _unpack(packed, shapes):
    return jax.tree.map(unpack, packed, shapes)


def scan_layers(
    lift: Callable[[Callable[..., Any]], Callable[..., Any]],
    layer: Callable[[Any, jax.Array], jax.Array],
    weights: Any,
    image: jax.Array,
) -> jax.Array:
    """Returns an image after a loop over layers.

    Args:
      lift: makes the loop, `flax.linen.scan` with its options: of a function (weights, carry, None) -> (carry, None).
      layer: of (weights, image), returns an image of the same shape.
      weights: what the loop takes for its layers' weights.
      image: [B, H, W, C].
    """

    def packed_layer(weights, carry, _):
        return pack(layer(weights, unpack(carry, image.shape))), None

    carry, _ = lift(packed_layer)(weights, pack(image), None)
    return unpack(carry, image.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(step, weights, carry, xs):
    return jax.lax.scan(functools.partial(step, weights), carry, xs, unroll=loop_unroll())


def _forward(step, weights, carry, xs):
    def one_step(weights, carry, x, probes=None):
        record = _Record([], [], [], None if probes is None else iter(probes))
        return step(_defer(weights, record), carry, x), record

    # A probe is an input whose gradient is a convolution's cotangent. Its shape is that of the output.
    x = jax.tree.map(lambda x: x[0], xs)
    outputs = jax.eval_shape(lambda *args: one_step(*args)[1].outputs, weights, carry, x)
    length = len(jax.tree.leaves(xs)[0])
    probes = [jnp.zeros((length, *y.shape), y.dtype) for y in outputs]
    places = []

    def all_steps(weights, carry, xs, probes):
        def body(carry, x_and_probes):
            (carry, y), record = one_step(weights, carry, *x_and_probes)
            places[:] = record.places
            return carry, (y, record.inputs)

        carry, (ys, inputs) = jax.lax.scan(body, carry, (xs, probes), unroll=loop_unroll())
        return (carry, ys), inputs

    results, vjp, inputs = jax.vjp(all_steps, weights, carry, xs, probes, has_aux=True)
    reduce = jax.tree_util.Partial(functools.partial(_reduce_all, tuple(places)), weights, inputs)
    return results, (vjp, reduce)


def _backward(step, residuals, cotangents):
    vjp, reduce = residuals
    d_weights, d_carry, d_xs, d_outputs = vjp(cotangents)
    return jax.tree.map(jnp.add, d_weights, reduce(d_outputs)), d_carry, d_xs


_scan.defvjp(_forward, _backward)


def _is_conv(node):
    return isinstance(node, ConvWeights)


def _defer(weights, record):
    """Returns the weights with `_DeferredWeights` in the place of `ConvWeights`."""
    nodes, structure = jax.tree.flatten(weights, is_leaf=_is_conv)
    nodes = [_DeferredWeights(x, i, record) if _is_conv(x) else x for i, x in enumerate(nodes)]
    return structure.unflatten(nodes)


def _reduce_all(places, weights, inputs, cotangents):
    """Returns the gradients w.r.t. the kernels that the convolutions have read, zero for all other weights."""
    nodes, structure = jax.tree.flatten(weights, is_leaf=_is_conv)
    totals = jax.tree.map(jnp.zeros_like, nodes)
    for place, x, cotangent in zip(places, inputs, cotangents, strict=True):
        kernel = nodes[place.number].kernel
        gradient = conv2d_kernel_gradient(x, kernel, cotangent, place.stride, place.padding)
        total = totals[place.number]
        totals[place.number] = total._replace(kernel=total.kernel + gradient)
    return structure.unflatten(totals)
