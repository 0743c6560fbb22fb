"""Resizing on fixed grids: MATLAB's bicubic `imresize` and the networks' bilinear x2."""

import functools

import jax
import jax.numpy as jnp

from stvsr_jax import bicubic
from stvsr_jax.ops import triton
from stvsr_jax.ops.devices import check_implementation, require_support
from stvsr_jax.ops.resize import on_tpu


def imresize(
    image: jax.Array,
    *,
    scale: float | tuple[float, float] | None = None,
    out_size: tuple[int, int] | None = None,
) -> jax.Array:
    """Resizes like MATLAB's `imresize(image, scale)`; `stvsr_jax.bicubic.imresize` is the same in numpy.

    Args:
      image: [..., H, W, C] float.
      scale: output pixels per input pixel, one number or (y, x). By default out_size / (H, W).
      out_size: (H', W'). By default ceil(scale * (H, W)).

    Returns:
      [..., H', W', C] float32, neither clamped nor rounded.

    Raises:
      ValueError: neither scale nor out_size, a scale that is not positive or a size below one pixel.
    """
    if image.ndim < 3:
        raise ValueError(f"imresize: image must be [..., H, W, C], got {image.shape}")
    size = image.shape[-3:-1]
    scale, out_size = bicubic.resolve_scale(size, scale, out_size)
    rows, columns = (
        jnp.asarray(bicubic.resize_weights(n, m, s), jnp.float32)
        for n, m, s in zip(size, out_size, scale, strict=True)
    )
    # Full float32 products: with TF32 or bfloat16 the rounding would change 8-bit pixels.
    exact = jax.lax.Precision.HIGHEST
    image = jnp.einsum("yh,...hwc->...ywc", rows, image.astype(jnp.float32), precision=exact)
    return jnp.einsum("xw,...ywc->...yxc", columns, image, precision=exact)


IMPLEMENTATIONS = ("xla", "pallas_triton", "pallas_tpu")


def upsample_bilinear_2x(x: jax.Array, scale: float = 1.0, *, implementation: str | None = None) -> jax.Array:
    """Doubles height and width bilinearly, half-pixel centres, edges clamped.

    Args:
      x: [..., H, W, C].
      scale: factor of the values.
      implementation: a name in `IMPLEMENTATIONS`. None: 'pallas_triton' on a CUDA device or 'pallas_tpu' on a TPU, if
        they support the arguments; otherwise 'xla'.

    Returns:
      [..., 2H, 2W, C] in the dtype of x.

    Raises:
      ValueError: unknown implementation.
      NotImplementedError: the implementation cannot run this array, or not on this device.
    """
    check_implementation("upsample_bilinear_2x", implementation, IMPLEMENTATIONS)
    images = x.reshape(-1, *x.shape[-3:])
    require = functools.partial(require_support, "upsample_bilinear_2x", implementation)
    if implementation == "pallas_triton":
        triton.require("upsample_bilinear_2x")
        require(_fits_triton(images), images)
    elif implementation == "pallas_tpu":
        require(on_tpu.has_kernels(images), images)
    chosen = implementation or _choose(images)
    y = _upsample(images, scale=scale, implementation=chosen, is_asked_for=implementation is not None)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _choose(images):
    """Returns the implementation for the device that a program traced now is for."""
    if on_tpu.has_kernels(images):
        return "pallas_tpu"
    return "pallas_triton" if triton.is_usable() and _fits_triton(images) else "xla"


def _fits_triton(images):
    from stvsr_jax.ops.resize import triton as resize_triton

    return resize_triton.is_supported(images)


# Traced once for equal shapes.
@functools.partial(jax.jit, static_argnames=("scale", "implementation", "is_asked_for"))
def _upsample(x, scale, implementation, is_asked_for):
    plain = functools.partial(_upsample_plainly, scale=scale)
    if implementation == "xla":
        return plain(x)
    if implementation == "pallas_tpu":
        return on_tpu.double(plain, x, scale)

    def by_triton(x):
        return _upsample_by_kernel(x, scale, False)

    return by_triton(x) if is_asked_for else jax.lax.platform_dependent(x, cuda=by_triton, default=plain)


def _upsample_plainly(x, scale):
    return scale * _double(_double(x, axis=1), axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _upsample_by_kernel(x, scale, interpret):
    from stvsr_jax.ops.resize import triton as resize_triton

    return resize_triton.run(x, scale, interpret=interpret)


def _gradient_by_kernel(scale, interpret, _, cotangent):
    from stvsr_jax.ops.resize import triton as resize_triton

    return (resize_triton.run_backward(cotangent, scale, interpret=interpret),)


_upsample_by_kernel.defvjp(
    lambda x, scale, interpret: (_upsample_by_kernel(x, scale, interpret), None), _gradient_by_kernel
)


def _double(x, axis):
    """Interleaves (prev + 3 x) / 4 and (3 x + next) / 4 along an axis."""
    size = x.shape[axis]
    previous = jnp.concatenate(
        [jax.lax.slice_in_dim(x, 0, 1, axis=axis), jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis
    )
    following = jnp.concatenate(
        [jax.lax.slice_in_dim(x, 1, size, axis=axis), jax.lax.slice_in_dim(x, size - 1, size, axis=axis)],
        axis,
    )
    pairs = jnp.stack([0.25 * previous + 0.75 * x, 0.75 * x + 0.25 * following], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
