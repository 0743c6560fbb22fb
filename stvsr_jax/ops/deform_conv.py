"""Modulated deformable convolution, DCNv2 (Zhu et al., CVPR 2019, arXiv 1811.11168, eq. 1).

    out[b, y, x] = bias + sum over g, k of mask[b, y, x, g, k]
        * sample(x[b, group g], (y, x) * stride - padding + tap k * dilation + offset[b, y, x, g, k])
        @ kernel[tap k, group g]

`sample` is `ops.sampling.bilinear_sample`: zero outside the image. Channel c belongs to offset group
c // (C / G); taps run row by row.
"""

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.ops.sampling import sample_groups


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
      implementation: a name in `IMPLEMENTATIONS`; None takes 'gather'.

    Returns:
      [B, H', W', C'] in the dtype of x, H' = (H + 2 p - d (kh - 1) - 1) // s + 1.

    Raises:
      ValueError: a shape does not follow from the others, or an unknown implementation.
    """
    stride, dilation, padding = _pair(stride), _pair(dilation), _pair(padding)
    _check_shapes(x, offset, mask, kernel, bias, stride, dilation, padding)
    implementation = implementation or "gather"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"deform_conv2d: implementation {implementation!r} is not one of {sorted(IMPLEMENTATIONS)}"
        )
    positions = _tap_positions(offset.shape[1:3], kernel.shape[:2], stride, dilation, padding)
    coords = offset.astype(jnp.float32) + positions[:, :, None]  # [B, H', W', G, K, 2]
    out = IMPLEMENTATIONS[implementation](x, coords, mask, kernel)
    return out if bias is None else out + bias.astype(out.dtype)


def _gather(x, coords, mask, kernel):
    batch, height, width, channels = x.shape
    _, out_height, out_width, groups, taps, _ = coords.shape
    image = x.reshape(batch, height, width, groups, channels // groups)
    values = sample_groups(image, coords.reshape(batch, -1, groups, taps, 2))  # [B, P, G, K, c]
    values = values * mask.reshape(batch, -1, groups, taps, 1).astype(values.dtype)
    columns = values.reshape(batch, out_height, out_width, channels * taps)
    # The kernel's rows in the order of the columns: group, tap, channel of the group.
    rows = kernel.reshape(taps, groups, channels // groups, -1).transpose(1, 0, 2, 3)
    return columns @ rows.reshape(channels * taps, -1).astype(columns.dtype)


# Each takes (x, coords [B, H', W', G, K, 2], mask, kernel) and returns [B, H', W', C'].
IMPLEMENTATIONS = {"gather": _gather}


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _tap_positions(out_size, kernel_size, stride, dilation, padding):
    """Returns [H', W', K, 2] float32: where each tap falls without offset, (y, x) in pixels of x."""
    axes = []
    for n, k, s, d, p in zip(out_size, kernel_size, stride, dilation, padding, strict=True):
        axes.append(np.arange(n)[:, None] * s - p + np.arange(k)[None, :] * d)  # [n, k]
    y = axes[0][:, None, :, None]  # [H', 1, kh, 1]
    x = axes[1][None, :, None, :]  # [1, W', 1, kw]
    grid = np.stack(np.broadcast_arrays(y, x), axis=-1).astype(np.float32)
    return grid.reshape(*out_size, kernel_size[0] * kernel_size[1], 2)


def _check_shapes(x, offset, mask, kernel, bias, stride, dilation, padding):
    if x.ndim != 4 or kernel.ndim != 4 or offset.ndim != 6:
        raise ValueError(
            "deform_conv2d: x must be [B, H, W, C], kernel [kh, kw, C, C'] and offset [B, H', W', G, K, 2], "
            f"got {x.shape}, {kernel.shape} and {offset.shape}"
        )
    kernel_size, groups = kernel.shape[:2], offset.shape[3]
    out_size = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, d, p in zip(x.shape[1:3], kernel_size, stride, dilation, padding, strict=True)
    )
    want = (x.shape[0], *out_size, groups, kernel_size[0] * kernel_size[1])
    if offset.shape != (*want, 2) or mask.shape != want:
        raise ValueError(
            f"deform_conv2d: offset must be {(*want, 2)} and mask {want} for x {x.shape}, kernel "
            f"{kernel.shape}, stride {stride}, dilation {dilation}, padding {padding}; "
            f"got {offset.shape} and {mask.shape}"
        )
    if bias is not None and bias.shape != kernel.shape[3:]:
        raise ValueError(f"deform_conv2d: bias must be {kernel.shape[3:]} as the kernel, got {bias.shape}")
    if kernel.shape[2] != x.shape[3] or x.shape[3] % groups:
        raise ValueError(
            f"deform_conv2d: {x.shape[3]} channels must equal the kernel's {kernel.shape[2]} and divide "
            f"by the {groups} offset groups"
        )
