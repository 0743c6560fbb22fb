"""Modulated deformable convolution, DCNv2 (Zhu et al., CVPR 2019, arXiv 1811.11168, eq. 1).

    out[b, y, x] = bias + sum over g, k of mask[b, y, x, g, k]
        * sample(x[b, group g], (y, x) * stride - padding + tap k * dilation + offset[b, y, x, g, k])
        @ kernel[tap k, group g]

`sample` is `ops.sampling.bilinear_sample`: zero outside the image. Channel c belongs to offset group c // (C / G); taps
run row by row.

The columns are the im2col of modulated samples, [B, H', W', K, C]; their product with the kernel is the convolution.
The head is offsets and masks as one array, [B, H', W', K, 3, G]: y, x and mask, as one convolution can make them.

On a TPU an input that is not finite spreads over more results than those that read it, see `deform_conv/tpu.py`.
"""

import functools

import jax
import jax.numpy as jnp

from stvsr_jax.ops import triton
from stvsr_jax.ops.conv import conv2d
from stvsr_jax.ops.deform_conv import gather, on_tpu, windowed
from stvsr_jax.ops.deform_conv.windowed import Geometry
from stvsr_jax.ops.devices import (
    check_implementation,
    count_mosaic_sms,
    require_mosaic,
    require_support,
    takes_tpu_kernels,
)
from stvsr_jax.ops.sampling import spread_groups


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
      mask: [B, H', W', G, K], factors of the samples.
      kernel: [kh, kw, C, C'].
      bias: [C'] or None.
      stride: of the output over the input, one number or (y, x).
      dilation: distance of the taps, one number or (y, x).
      padding: zeros added on each side, one number or (y, x).
      implementation: a name in `IMPLEMENTATIONS`. None: 'pallas_triton' on a CUDA device if it supports the arguments (16
        bits, powers of two of channels, one device or inside `shard_map`); 'windowed' on a TPU, which falls back to
        'gather' if a displacement is 2 pixels or more; otherwise 'gather'.

    Returns:
      [B, H', W', C'] in the dtype of x, H' = (H + 2 p - d (kh - 1) - 1) // s + 1.

    Raises:
      ValueError: shapes that do not fit each other, or an unknown implementation.
      NotImplementedError: the implementation does not support the arguments.
    """
    geometry = Geometry(_pair(stride), _pair(dilation), _pair(padding), kernel.shape[:2])
    if x.ndim != 4 or kernel.ndim != 4 or offset.ndim != 6 or kernel.shape[2] != x.shape[3]:
        raise ValueError(
            "deform_conv2d: x must be [B, H, W, C], kernel [kh, kw, C, C'] and offset [B, H', W', G, K, 2], "
            f"got {x.shape}, {kernel.shape} and {offset.shape}"
        )
    if bias is not None and bias.shape != kernel.shape[3:]:
        raise ValueError(f"deform_conv2d: bias must be {kernel.shape[3:]} as the kernel, got {bias.shape}")
    _check_shapes(f"deform_conv2d with a kernel {kernel.shape}", x, offset.shape, mask.shape, geometry)
    head = jnp.concatenate([offset.astype(jnp.float32), mask[..., None].astype(jnp.float32)], axis=-1)
    head = head.transpose(0, 1, 2, 4, 5, 3)  # [B, H', W', K, 3, G]
    columns = _run(x, head, geometry, False, implementation)
    y = columns @ kernel.reshape(columns.shape[-1], -1).astype(x.dtype)
    return y if bias is None else y + bias.astype(x.dtype)


def deform_columns(
    x: jax.Array,
    head: jax.Array,
    *,
    groups: int,
    kernel_size: tuple[int, int] = (3, 3),
    implementation: str | None = None,
) -> jax.Array:
    """Returns the columns of a deformable convolution, from the output of the convolution that predicts its head.

    Stride and dilation are 1 and the output has the size of x. The masks are the sigmoids of the head's logits.
    The convolution is `deform_columns(x, head, groups=G) @ kernel.reshape(K C, C') + bias`.

    Args:
      x: [B, H, W, C].
      head: [B, H, W, 3 K G], in the order tap, then displacement y, displacement x, logit, then group.
      groups: G.
      kernel_size: (kh, kw), both odd; K = kh * kw.
      implementation: as of `deform_conv2d`.

    Returns:
      [B, H, W, K C] in the dtype of x: tap, then channel.

    Raises:
      ValueError: shapes that do not fit each other, or an unknown implementation.
      NotImplementedError: the implementation does not support the arguments.
    """
    geometry = Geometry((1, 1), (1, 1), (kernel_size[0] // 2, kernel_size[1] // 2), kernel_size)
    taps = kernel_size[0] * kernel_size[1]
    if x.ndim != 4 or head.ndim != 4 or head.shape[3] != 3 * taps * groups:
        raise ValueError(
            f"deform_columns: x must be [B, H, W, C] and head [B, H, W, {3 * taps * groups}] for {taps} taps and "
            f"{groups} groups, got {x.shape} and {head.shape}"
        )
    head = head.reshape(*head.shape[:-1], taps, 3, groups)
    mask_shape = (*head.shape[:-3], groups, taps)
    _check_shapes("deform_columns", x, (*mask_shape, 2), mask_shape, geometry)
    return _run(x, head, geometry, True, implementation)


def deform_conv2d_of_head(
    x: jax.Array,
    head: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    groups: int,
    slope: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Returns a 3x3 deformable convolution: ReLU(columns @ kernel + bias), from its head; see `deform_columns`.

    On an NVIDIA Hopper GPU one kernel does all of it, if it supports the arguments and no gradient is taken; on a TPU
    also with gradients.

    Args:
      x: [B, H, W, C], or for S convolutions [S, B, H, W, C].
      head: [B, H, W, 27 G] or [S, B, H, W, 27 G], see `deform_columns`.
      kernel: [1, 1, 9 C, C'] or [S, 1, 1, 9 C, C'].
      bias: [C'] or [S, C'].
      groups: G.
      slope: negative slope of the ReLU, None: linear.
      implementation: a name in `HEAD_IMPLEMENTATIONS`. One of `deform_columns` makes the columns and then the product.
        None: 'pallas_mosaic' on an NVIDIA Hopper GPU or 'pallas_tpu' on a TPU, if they support the arguments; otherwise
        what `deform_columns` chooses.

    Returns:
      [B, H, W, C'] or [S, B, H, W, C'].

    Raises:
      ValueError: unknown implementation.
      NotImplementedError: the implementation cannot run these arguments, or not on this device.
    """
    check_implementation("deform_conv2d_of_head", implementation, HEAD_IMPLEMENTATIONS)
    sms, is_for_tpu = None, False
    if implementation == "pallas_mosaic":
        sms = require_mosaic("deform_conv2d_of_head")
    elif implementation in (None, "pallas_tpu"):
        sms, is_for_tpu = count_mosaic_sms(), takes_tpu_kernels()
    return _run_whole(x, head, kernel, bias, groups, slope, sms, is_for_tpu, implementation)


# Traced and lowered once for equal shapes.
@functools.partial(jax.jit, static_argnames=("groups", "slope", "sms", "is_for_tpu", "implementation"))
def _run_whole(x, head, kernel, bias, groups, slope, sms, is_for_tpu, implementation):
    of_columns = implementation if implementation in IMPLEMENTATIONS else None
    plain = functools.partial(_run_in_two, groups=groups, slope=slope, implementation=of_columns)
    require = functools.partial(require_support, "deform_conv2d_of_head", implementation)
    has_tpu_kernels = is_for_tpu and on_tpu.is_supported(x, head, kernel)
    if implementation == "pallas_tpu":
        require(has_tpu_kernels, x, head, kernel)
    if has_tpu_kernels:
        linear = functools.partial(_run_in_two, groups=groups, slope=None)
        return on_tpu.run(linear, slope, x, head, kernel, bias)
    if sms is None:
        return plain(x, head, kernel, bias)
    from stvsr_jax.ops.deform_conv import mosaic  # imports Mosaic, which only Hopper GPUs need

    def in_sets(x, head, kernel, bias):
        operands = x, head, kernel[..., 0, 0, :, :], bias
        return operands if x.ndim == 5 else jax.tree.map(lambda a: a[None], operands)

    sets = jax.eval_shape(in_sets, x, head, kernel, bias)
    is_supported = groups == mosaic.OFFSET_GROUPS and mosaic.is_supported(*sets[:3])
    if implementation == "pallas_mosaic":
        require(is_supported, x, head, kernel)
    if not is_supported:
        return plain(x, head, kernel, bias)

    def run_kernel(*operands):
        out = mosaic.run(*in_sets(*operands), slope=slope, sms=sms)
        return out.reshape(operands[0].shape)

    @jax.custom_vjp
    def run(*operands):
        if implementation == "pallas_mosaic":
            return run_kernel(*operands)
        return jax.lax.platform_dependent(*operands, cuda=run_kernel, default=plain)

    run.defvjp(lambda *operands: jax.vjp(plain, *operands), lambda vjp, cotangent: vjp(cotangent))
    return run(x, head, kernel, bias)


def _run_in_two(x, head, kernel, bias, groups, slope, implementation=None):
    images, heads = (a.reshape(-1, *a.shape[-3:]) for a in (x, head))
    columns = deform_columns(images, heads, groups=groups, implementation=implementation)
    return conv2d(columns.reshape(*head.shape[:-1], -1), kernel, 1, 0, bias=bias, slope=slope)


def _run(x, head, geometry, logits, implementation):
    if implementation is not None:
        check_implementation("deform_conv2d", implementation, IMPLEMENTATIONS)
        columns = IMPLEMENTATIONS[implementation](x, head, geometry, logits)
    else:
        columns = _run_on_any_platform(
            x, head, geometry=geometry, logits=logits, has_kernels=triton.is_usable()
        )
    return columns.reshape(*head.shape[:3], -1)


@functools.partial(
    jax.jit, static_argnames=("geometry", "logits", "has_kernels")
)  # traced once for equal shapes
def _run_on_any_platform(x, head, geometry, logits, has_kernels):
    names = {"tpu": "windowed", "default": "gather"}
    if has_kernels:
        from stvsr_jax.ops.deform_conv import triton as deform_conv_triton

        if deform_conv_triton.is_supported(x, head):
            names["cuda"] = "pallas_triton"
    options = dict(geometry=geometry, logits=logits)
    functions = {
        platform: functools.partial(IMPLEMENTATIONS[name], **options) for platform, name in names.items()
    }
    return jax.lax.platform_dependent(x, head, **functions)


def _pallas_triton(x, head, geometry, logits):
    triton.require("deform_conv2d")
    from stvsr_jax.ops.deform_conv import triton as deform_conv_triton

    if not deform_conv_triton.is_supported(x, head):
        raise NotImplementedError(
            "deform_conv2d: pallas_triton runs 16 bits, groups and channels that are powers of two and images with "
            f"fewer than 2**31 samples, not {x.dtype} {x.shape} with {head.shape[-1]} groups"
        )
    return _run_kernels(x, head, geometry, logits, interpret=False)


def _run_kernels(x, head, geometry, logits, *, interpret):
    from stvsr_jax.ops.deform_conv import triton as deform_conv_triton

    if deform_conv_triton.is_indexable(x, head):
        return _triton_columns(x, head, geometry, logits, interpret)

    def of_image(operands):
        x, head = (a[None] for a in operands)
        return _triton_columns(x, head, geometry, logits, interpret)[0]

    return jax.lax.map(of_image, (x, head))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _triton_columns(x, head, geometry, logits, interpret):
    """The kernel with its VJP. XLA scatter-adds the gradient w.r.t. x: as fast as atomics in a kernel, when measured."""
    from stvsr_jax.ops.deform_conv import triton as deform_conv_triton

    return deform_conv_triton.run(x, head, geometry, logits=logits, interpret=interpret)


def _save_operands(x, head, *options):
    return _triton_columns(x, head, *options), (x, head)


def _triton_backward(geometry, logits, interpret, operands, cotangent):
    from stvsr_jax.ops.deform_conv import triton as deform_conv_triton

    x, head = operands
    d_samples, d_head = deform_conv_triton.run_backward(
        x, head, cotangent, geometry, logits=logits, interpret=interpret
    )
    coords = gather.coords_of(head, geometry)
    d_x = spread_groups(d_samples.reshape(*coords.shape[:-1], -1), coords, gather.in_groups(x, head))
    return d_x.reshape(x.shape).astype(x.dtype), d_head


_triton_columns.defvjp(_save_operands, _triton_backward)


def _windowed(x, head, geometry, logits):
    return jax.lax.cond(
        windowed.fits(head),
        functools.partial(windowed.run, geometry=geometry, logits=logits),
        functools.partial(gather.run, geometry=geometry, logits=logits),
        *(x, head),
    )


# Each maps (x, head [B, H', W', K, 3, G], geometry, whether masks are logits) to columns [B, H', W', K, C].
IMPLEMENTATIONS = {"gather": gather.run, "pallas_triton": _pallas_triton, "windowed": _windowed}
# Of `deform_conv2d_of_head`: the last two make no columns.
HEAD_IMPLEMENTATIONS = (*IMPLEMENTATIONS, "pallas_mosaic", "pallas_tpu")


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _check_shapes(function, x, offset_shape, mask_shape, geometry):
    groups, (stride, dilation, padding, kernel_size) = offset_shape[3], geometry
    out_size = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, d, p in zip(x.shape[1:3], kernel_size, stride, dilation, padding, strict=True)
    )
    want = (x.shape[0], *out_size, groups, kernel_size[0] * kernel_size[1])
    if offset_shape != (*want, 2) or mask_shape != want:
        raise ValueError(
            f"{function}: offset must be {(*want, 2)} and mask {want} for x {x.shape}, kernel of "
            f"{kernel_size}, stride {stride}, dilation {dilation}, padding {padding}; "
            f"got {offset_shape} and {mask_shape}"
        )
    if x.shape[3] % groups:
        raise ValueError(f"{function}: {x.shape[3]} channels must divide by the {groups} offset groups")
