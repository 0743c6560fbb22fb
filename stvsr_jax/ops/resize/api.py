"""Resizing on fixed grids: MATLAB's bicubic `imresize` and the networks' bilinear x2."""

import functools

import jax
import jax.numpy as jnp

from stvsr_jax import bicubic
from stvsr_jax.ops import triton
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


def upsample_bilinear_2x(x: jax.Array, scale: float = 1.0) -> jax.Array:
    """Doubles height and width bilinearly, half-pixel centres, edges clamped.

    Args:
      x: [..., H, W, C].
      scale: factor of the values.

    Returns:
      [..., 2H, 2W, C] in the dtype of x.
    """
    has_kernels = triton.is_usable()
    if has_kernels:
        from stvsr_jax.ops.resize import triton as resize_triton

        has_kernels = resize_triton.is_supported(x)
    images = x.reshape(-1, *x.shape[-3:])
    if on_tpu.has_kernels(images):
        y = on_tpu.double(functools.partial(_upsample_plainly, scale=scale), images, scale)
        return y.reshape(*x.shape[:-3], *y.shape[1:])
    y = _upsample_on_any_platform(images, scale=scale, has_kernels=has_kernels)
    return y.reshape(*x.shape[:-3], *y.shape[1:])


@functools.partial(jax.jit, static_argnames=("scale", "has_kernels"))  # traced once for equal shapes
def _upsample_on_any_platform(x, scale, has_kernels):
    functions = {"default": functools.partial(_upsample_plainly, scale=scale)}
    if has_kernels:
        functions["cuda"] = lambda x: _upsample_by_kernel(x, scale, False)
    return jax.lax.platform_dependent(x, **functions)


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
