"""RGB to the planes that a video encoder takes, in the program that renders: half the bytes leave the device.

Limited range, 8 to 16 bits, from the network's numbers with one rounding. The host's way (`video.colour.FrameMaker`)
rounds to RGB first, and lies at most one level of 8 bits away. Halved chroma is sited as there: on the left of its two
columns, and between its two rows. The kernel is FFmpeg's bicubic one, stretched.
"""

import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax.video.plane_layout import LUMA_WEIGHTS, Layout, encoded_size


def from_rgb(images: jax.Array, layout: Layout) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns luma, blue and red difference of RGB images.

    Args:
      images: float [..., H, W, 3] in units of [0, 1], clamped. H and W are multiples of the subsampling.
      layout: of the planes.

    Returns:
      Three arrays of `layout.dtype`, [..., H, W] and twice [..., H / rows, W / columns].

    Raises:
      ValueError: a side is not a multiple of the subsampling.
    """
    rows, columns = layout.subsampling
    height, width = images.shape[-3:-1]
    if height % rows or width % columns:
        raise ValueError(
            f"images of {width}x{height} are not made of {columns}x{rows} pixels a chroma sample"
        )
    red, green, blue = (jnp.clip(images[..., i].astype(jnp.float32), 0.0, 1.0) for i in range(3))
    weight_red, weight_blue = LUMA_WEIGHTS[layout.matrix]
    luma = weight_red * red + (1 - weight_red - weight_blue) * green + weight_blue * blue
    differences = [
        (blue - luma) / (2 * (1 - weight_blue)),
        (red - luma) / (2 * (1 - weight_red)),
    ]
    for axis, step, phase in ((-2, rows, 0.5), (-1, columns, 0.0)):
        if step == 2:
            differences = [_halve(plane, axis, phase) for plane in differences]
    level = 2 ** (layout.bits - 8)
    scaled = [(16 + 219 * luma) * level, *((128 + 224 * plane) * level for plane in differences)]
    # Overshoots of the kernel stay within what is left above and below the range.
    most = 2**layout.bits - 1
    return tuple(jnp.clip(jnp.floor(plane + 0.5), 0, most).astype(layout.dtype) for plane in scaled)


def _halve(plane, axis, phase):
    """Halves a side; sample i of the result lies at 2 i + `phase`. Edges are repeated."""
    weights = _bicubic((np.arange(-3, 5 if phase else 4) - phase) / 2)
    weights /= weights.sum()
    plane = jnp.moveaxis(plane, axis, -1)
    size = plane.shape[-1]
    padded = jnp.pad(plane, [(0, 0)] * (plane.ndim - 1) + [(3, 4)], mode="edge")
    taps = [float(w) * padded[..., first : first + size : 2] for first, w in enumerate(weights) if w]
    return jnp.moveaxis(sum(taps[1:], taps[0]), -1, axis)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """FFmpeg's default cubic kernel (Mitchell-Netravali with B = 0, C = 0.6)."""
    x = np.abs(x)
    near = (8.4 * x**3 - 14.4 * x**2 + 6) / 6
    far = (-3.6 * x**3 + 18 * x**2 - 28.8 * x + 14.4) / 6
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def pack(images: jax.Array, layout: Layout) -> jax.Array:
    """Returns the planes of images, of which an odd last row or column is left out, one behind the other: [..., n].

    Args:
      images: [..., H, W, 3], see `from_rgb`.
      layout: of the planes.
    """
    height, width = encoded_size(images.shape[-3:-1], layout.subsampling)
    planes = from_rgb(images[..., :height, :width, :], layout)
    return jnp.concatenate([plane.reshape(*plane.shape[:-2], -1) for plane in planes], axis=-1)
