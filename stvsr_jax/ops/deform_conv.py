"""Modulated deformable convolution, DCNv2 (Zhu et al., CVPR 2019, arXiv 1811.11168, eq. 1).

    out[b, y, x] = bias + sum over g, k of mask[b, y, x, g, k]
        * sample(x[b, group g], (y, x) * stride - padding + tap k * dilation + offset[b, y, x, g, k])
        @ kernel[tap k, group g]

`sample` is `ops.sampling.bilinear_sample`: zero outside the image. Channel c belongs to offset group
c // (C / G); taps run row by row.

The back ends read offsets and masks as one array, the head, [B, H', W', K, 3, G]: y, x and mask. So does
`deform_conv2d_of_head`, which a network calls with what its convolution made.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.ops import deform_conv_triton, deform_conv_windowed
from stvsr_jax.ops.deform_conv_triton import Geometry
from stvsr_jax.ops.devices import is_single_device
from stvsr_jax.ops.sampling import sample_groups, spread_groups


def deform_conv2d(
    x: jax.Array,
    offset: jax.Array,
    mask: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
    implementation: str | None = None,
) -> jax.Array:
    """Convolves with learned sampling positions and modulation.

    Args:
      x: [B, H, W, C].
      offset: [B, H', W', G, K, 2] displacements (y, x) in pixels of x, float32; K = kh * kw taps.
      mask: [B, H', W', G, K] factors of the samples.
      kernel: [kh, kw, C, C'].
      bias: [C'] or None.
      stride: of the output over the input, one number or (y, x).
      dilation: distance of the taps, one number or (y, x).
      padding: zeros added on each side, one number or (y, x).
      implementation: a name in `IMPLEMENTATIONS`. None takes 'pallas_triton' on a CUDA device where it can run (16 bits,
        numbers of channels that are powers of two, one device or inside of `shard_map`), 'windowed' on a TPU (which
        goes to 'gather' where a displacement is 2 pixels or more), else 'gather'.

    Returns:
      [B, H', W', C'] in the dtype of x, H' = (H + 2 p - d (kh - 1) - 1) // s + 1.

    Raises:
      ValueError: a shape does not follow from the others, or an unknown implementation.
      NotImplementedError: the implementation cannot run these arguments.
    """
    geometry = Geometry(_pair(stride), _pair(dilation), _pair(padding), kernel.shape[:2])
    _check_shapes(x, offset.shape, mask.shape, kernel, bias, geometry)
    head = jnp.concatenate([offset.astype(jnp.float32), mask[..., None].astype(jnp.float32)], axis=-1)
    head = head.transpose(0, 1, 2, 4, 5, 3)  # [B, H', W', K, 3, G]
    return _run(x, head, kernel, bias, geometry, False, implementation)


def deform_conv2d_of_head(
    x: jax.Array,
    head: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    groups: int,
    implementation: str | None = None,
) -> jax.Array:
    """Convolves with the displacements and mask logits that one convolution made.

    Stride and dilation are 1 and the output has the size of x. The masks are the logits' sigmoids.

    Args:
      x: [B, H, W, C].
      head: [B, H, W, 3 K G], in the order tap, then displacement y, displacement x, logit, then group.
      kernel: [kh, kw, C, C'], K = kh * kw, both odd.
      bias: [C'].
      groups: G.
      implementation: as of `deform_conv2d`.

    Returns:
      [B, H, W, C'] in the dtype of x.

    Raises:
      ValueError: a shape does not follow from the others, or an unknown implementation.
      NotImplementedError: the implementation cannot run these arguments.
    """
    size = kernel.shape[:2]
    geometry = Geometry((1, 1), (1, 1), (size[0] // 2, size[1] // 2), size)
    head = head.reshape(*head.shape[:-1], size[0] * size[1], 3, groups)
    mask_shape = (*head.shape[:-3], groups, head.shape[-3])
    _check_shapes(x, (*mask_shape, 2), mask_shape, kernel, bias, geometry)
    return _run(x, head, kernel, bias, geometry, True, implementation)


def _run(x, head, kernel, bias, geometry, logits, implementation):
    if bias is None:
        bias = jnp.zeros(kernel.shape[3], kernel.dtype)
    kernel = kernel.astype(x.dtype)
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"deform_conv2d: implementation {implementation!r} is not one of {sorted(IMPLEMENTATIONS)}"
            )
        return IMPLEMENTATIONS[implementation](x, head, kernel, bias, geometry, logits)
    return _run_on_any_platform(
        x, head, kernel, bias, geometry=geometry, logits=logits, has_kernels=is_single_device()
    )


@functools.partial(
    jax.jit, static_argnames=("geometry", "logits", "has_kernels")
)  # traced once for equal shapes
def _run_on_any_platform(x, head, kernel, bias, geometry, logits, has_kernels):
    names = {"tpu": "windowed", "default": "gather"}
    if has_kernels and deform_conv_triton.is_supported(x, head):
        names["cuda"] = "pallas_triton"
    options = dict(geometry=geometry, logits=logits)
    functions = {
        platform: functools.partial(IMPLEMENTATIONS[name], **options) for platform, name in names.items()
    }
    return jax.lax.platform_dependent(x, head, kernel, bias, **functions)


def _gather(x, head, kernel, bias, geometry, logits):
    values = sample_groups(x.reshape(_in_groups(x, head)), _coords(head, geometry))  # [B, P, K, G, c]
    mask = head[..., 2, :].reshape(values.shape[:-1]).astype(jnp.float32)
    mask = jax.nn.sigmoid(mask) if logits else mask
    values = values * mask[..., None].astype(values.dtype)
    columns = values.reshape(*head.shape[:3], -1)  # [B, H', W', K C]
    return columns @ kernel.reshape(columns.shape[-1], -1) + bias.astype(x.dtype)


def _in_groups(x, head):
    """Returns the shape of x with its channels as (G, c)."""
    return (*x.shape[:3], head.shape[-1], x.shape[-1] // head.shape[-1])


def _coords(head, geometry):
    """Returns where is sampled, [B, P, K, G, 2] (y, x) in pixels of x, float32; P = H' W'."""
    batch, *out_size, taps, _, groups = head.shape
    displacement = head[..., :2, :].reshape(batch, -1, taps, 2, groups).astype(jnp.float32)
    return jnp.moveaxis(displacement, 3, 4) + _tap_positions(out_size, geometry).reshape(-1, taps, 1, 2)


def _pallas_triton(x, head, kernel, bias, geometry, logits):
    if not deform_conv_triton.is_supported(x, head):
        raise NotImplementedError(
            "deform_conv2d: pallas_triton runs 16 bits, groups and channels that are powers of two, "
            f"not {x.dtype} with {head.shape[-1]} groups and {x.shape[-1]} channels"
        )
    return _triton_forward(x, head, kernel, bias, geometry, logits, False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _triton_forward(x, head, kernel, bias, geometry, logits, interpret):
    """The kernel with its derivative, whose scatter-add is XLA's: it proved as fast as atomics in a kernel."""
    return deform_conv_triton.run(x, head, kernel, bias, geometry, logits=logits, interpret=interpret)


def _save_operands(x, head, kernel, bias, *options):
    return _triton_forward(x, head, kernel, bias, *options), (x, head, kernel, bias)


def _triton_backward(geometry, logits, interpret, operands, cotangent):
    x, head, kernel, bias = operands
    if not deform_conv_triton.is_backward_supported(x, head):
        _, vjp = jax.vjp(functools.partial(_gather, geometry=geometry, logits=logits), *operands)
        return vjp(cotangent)
    made = deform_conv_triton.run_backward(
        x, head, kernel, cotangent, geometry, logits=logits, interpret=interpret
    )
    coords, shape = _coords(head, geometry), _in_groups(x, head)
    d_x = spread_groups(made.samples.reshape(*coords.shape[:-1], -1), coords, shape)
    d_kernel = jnp.einsum("bhwkc,bhwf->kcf", made.columns, cotangent, preferred_element_type=jnp.float32)
    d_bias = jnp.sum(cotangent, axis=(0, 1, 2), dtype=jnp.float32)
    return (
        d_x.reshape(x.shape).astype(x.dtype),
        made.head,
        d_kernel.reshape(kernel.shape).astype(kernel.dtype),
        d_bias.astype(bias.dtype),
    )


_triton_forward.defvjp(_save_operands, _triton_backward)


def _windowed(x, head, kernel, bias, geometry, logits):
    return jax.lax.cond(
        deform_conv_windowed.fits(head),
        functools.partial(deform_conv_windowed.run, geometry=geometry, logits=logits),
        functools.partial(_gather, geometry=geometry, logits=logits),
        *(x, head, kernel, bias),
    )


# Each takes (x, head [B, H', W', K, 3, G], kernel, bias, geometry, whether masks are logits) and returns
# [B, H', W', C'].
IMPLEMENTATIONS = {"gather": _gather, "pallas_triton": _pallas_triton, "windowed": _windowed}


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _tap_positions(out_size, geometry):
    """Returns [H', W', K, 2] float32: where each tap falls without offset, (y, x) in pixels of x."""
    axes = []
    stride, dilation, padding, kernel_size = geometry
    for n, k, s, d, p in zip(out_size, kernel_size, stride, dilation, padding, strict=True):
        axes.append(np.arange(n)[:, None] * s - p + np.arange(k)[None, :] * d)  # [n, k]
    y = axes[0][:, None, :, None]  # [H', 1, kh, 1]
    x = axes[1][None, :, None, :]  # [1, W', 1, kw]
    grid = np.stack(np.broadcast_arrays(y, x), axis=-1).astype(np.float32)
    return grid.reshape(*out_size, kernel_size[0] * kernel_size[1], 2)


def _check_shapes(x, offset_shape, mask_shape, kernel, bias, geometry):
    if x.ndim != 4 or kernel.ndim != 4 or len(offset_shape) != 6:
        raise ValueError(
            "deform_conv2d: x must be [B, H, W, C], kernel [kh, kw, C, C'] and offset [B, H', W', G, K, 2], "
            f"got {x.shape}, {kernel.shape} and {offset_shape}"
        )
    groups, (stride, dilation, padding, kernel_size) = offset_shape[3], geometry
    out_size = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, d, p in zip(x.shape[1:3], kernel_size, stride, dilation, padding, strict=True)
    )
    want = (x.shape[0], *out_size, groups, kernel_size[0] * kernel_size[1])
    if offset_shape != (*want, 2) or mask_shape != want:
        raise ValueError(
            f"deform_conv2d: offset must be {(*want, 2)} and mask {want} for x {x.shape}, kernel "
            f"{kernel.shape}, stride {stride}, dilation {dilation}, padding {padding}; "
            f"got {offset_shape} and {mask_shape}"
        )
    if bias is not None and bias.shape != kernel.shape[3:]:
        raise ValueError(f"deform_conv2d: bias must be {kernel.shape[3:]} as the kernel, got {bias.shape}")
    if kernel.shape[2] != x.shape[3] or x.shape[3] % groups:
        raise ValueError(
            f"deform_conv2d: {x.shape[3]} channels must equal the kernel's {kernel.shape[2]} and divide "
            f"by the {groups} offset groups"
        )
