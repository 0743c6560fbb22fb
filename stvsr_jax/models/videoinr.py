"""VideoINR: any scale, any instant between two frames (Chen et al., CVPR 2022, arXiv 2206.04647).

Frames are read at low resolution at every scale, as in training and in every published comparison (the published demo
upsamples them by x4 first). Positions of output pixels are cell centres. Both spaces span [-1, 1] from outer edge to
outer edge.
"""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from stvsr_jax import ops
from stvsr_jax.models import axes, encoder, siren
from stvsr_jax.models.contract import BatchShape, Contract
from stvsr_jax.ops.sampling import normalized_to_pixels

CLAMP = 1.0 - 1e-6  # warped coordinates stay inside the outer edges


@flax.struct.dataclass
class Encoded:
    """Two frames, encoded.

    Attributes:
      features: [B, H, W, 3C], at the first frame, between, and at the second frame.
      frames: [B, H, W, 6], both frames in [0, 1].
    """

    features: jax.Array
    frames: jax.Array


@flax.struct.dataclass
class WarpGrid:
    """Where the warps of an output start, and how far a flow of one output pixel moves; see `warp_grid`.

    Attributes:
      base_y, base_x: [H'] and [W'], positions in [-1, 1] over the output.
      step_y, step_x: scalars.
    """

    base_y: jax.Array
    base_x: jax.Array
    step_y: jax.Array
    step_x: jax.Array


def warp_grid(
    out_size: tuple[int, int],
    *,
    origin: tuple[int, int] = (0, 0),
    whole_size: tuple[int, int] | None = None,
) -> WarpGrid:
    """Returns the grid of an output that is a part of a whole frame.

    The grid of a whole frame runs from -1 to 1 through its outermost pixel *centres*. Sampling takes [-1, 1] as the outer
    *edges*. So zero flow shifts by up to half an output pixel at the borders. The published weights were trained with this
    shift. A part has to be shifted like the whole.

    Args:
      out_size: (H', W') of the output.
      origin: its first pixel in the whole frame.
      whole_size: of the whole frame in output pixels; None: the output is the whole.
    """
    bases, steps = [], []
    for size, start, whole in zip(out_size, origin, whole_size or out_size, strict=True):
        step = 2.0 * whole / ((whole - 1) * size)
        bases.append(np.float32((start + np.arange(size)) * step - 2.0 * start / size - 1.0))
        steps.append(np.float32(step))
    return WarpGrid(*bases, *steps)


def _published_layers():
    yield from encoder.published_layers()
    for source, target, layers in (("feat", "space", 4), ("flow", "motion", 4), ("encode", "colour", 5)):
        for i in range(layers):
            linear = ".linear" if i < layers - 1 else ""
            yield f"{source}_imnet.net.{i}{linear}", (target, f"kernel{i}")


CONTRACT = Contract(
    title="VideoINR",
    paper="2206.04647",
    window_size=2,
    keeps_earlier=False,  # as in the published evaluation: t = 0 is kept and t = 1 dropped
    scale=None,
    steps=None,
    # The compiler reports 30 kB (128x128, CPU); a fifth is added for decoding and work space.
    bytes_per_pixel=40_000,
    inference_batch=BatchShape(batch=1, frames=2, height=180, width=320, times=8),
    training_batch=BatchShape(batch=24, frames=2, height=32, width=32, times=3),
    make_grid=warp_grid,
    check_fields=encoder.check_fields,
    published_layers=_published_layers,
    # The published file carries Zooming Slow-Mo's output head.
    published_unused=frozenset(
        f"{layer}.{part}"
        for layer in ("upconv1", "upconv2", "HRconv", "conv_last")
        for part in ("weight", "bias")
    ),
)


class VideoINR(nn.Module):
    """Two low-resolution frames to any instants at any size.

    The defaults are the published sizes: 10,978,615 parameters (the published file holds 334,083 more
    that are never used).
    """

    contract = CONTRACT

    features: int = 64
    front_blocks: int = 5
    back_blocks: int = 40
    groups: int = 8
    hidden: tuple[int, int, int] = (64, 64, 256)
    remat: bool = False
    dtype: Any = jnp.float32
    implementation: str | None = None  # of `ops.sine_mlp`

    def setup(self):
        self.encoder = encoder.SpaceTimeEncoder(
            self.features, self.front_blocks, self.back_blocks, self.groups, self.remat, self.dtype
        )
        c, wide = self.features, 3 * self.features
        self.space = siren.Siren(
            (("features", wide), ("frames", 6), ("position", 2), ("time", 1)), (*self.hidden, c)
        )
        self.motion = siren.Siren(
            (("space", c), ("features", wide), ("frames", 6), ("time", 1)), (*self.hidden, 4)
        )
        self.colour = siren.Siren(
            (
                ("space1", c),
                ("space2", c),
                ("features1", wide),
                ("features2", wide),
                ("frames1", 6),
                ("frames2", 6),
                ("time", 1),
            ),
            (*self.hidden, self.hidden[-1], 3),
        )

    def __call__(
        self, frames: jax.Array, times: jax.Array, *, out_size: tuple[int, int], chunk_rows: int | None = None
    ) -> jax.Array:
        """Upscales and interpolates.

        Args:
          frames: [B, 2, H, W, 3] in [0, 1], H and W multiples of 4.
          times: [B, T] instants in [0, 1]; 0 is the first frame, 1 the second.
          out_size: (H', W'), each at least 2.
          chunk_rows: see `decode`.

        Returns:
          [B, T, H', W', 3] float32, not clamped.

        Raises:
          ValueError: an argument is not of that shape or size.
        """
        return self.decode(self.encode(frames), times, out_size=out_size, chunk_rows=chunk_rows)

    def encode(self, frames: jax.Array) -> Encoded:
        """Encodes [B, 2, H, W, 3] once for all instants and sizes."""
        if frames.ndim != 5 or frames.shape[1] != 2:
            raise ValueError(f"VideoINR: frames must be [B, 2, H, W, 3], got shape {frames.shape}")
        x = self.encoder(frames)
        return Encoded(
            jnp.concatenate([x[:, i] for i in range(3)], -1),
            jnp.concatenate([frames[:, 0], frames[:, 1]], -1),
        )

    def decode(
        self,
        encoded: Encoded,
        times: jax.Array,
        *,
        out_size: tuple[int, int],
        chunk_rows: int | None = None,
        grid: WarpGrid | None = None,
    ) -> jax.Array:
        """Renders instants at a size.

        Args:
          encoded: from `encode`.
          times: [B, T] in [0, 1].
          out_size: (H', W'), each at least 2.
          chunk_rows: rows of one instant rendered at a time, the same values in bounded memory; only the space
            feature [B, H', W', C] of the instant is held for all rows. None renders all rows of all instants at once.
          grid: from `warp_grid`, where the output is a part of a frame; None: it is the whole.

        Returns:
          [B, T, H', W', 3] float32, not clamped.

        Raises:
          ValueError: an argument is not of that shape or size.
        """
        if times.ndim != 2 or times.shape[0] != encoded.frames.shape[0]:
            raise ValueError(
                f"VideoINR: times must be [B, T] with B = {encoded.frames.shape[0]}, got shape {times.shape}"
            )
        if min(out_size) < 2:
            raise ValueError(f"VideoINR: out_size must be at least 2x2, got {out_size}")
        if chunk_rows is not None and chunk_rows < 1:
            raise ValueError(f"VideoINR: chunk_rows must be positive or None, got {chunk_rows}")
        weights = (self.space(), self.motion(), self.colour())
        grid = grid or warp_grid(tuple(out_size))
        return _decode(
            weights, encoded, times, tuple(out_size), chunk_rows, grid, self.dtype, self.implementation
        )


def _decode(weights, encoded, times, out_size, chunk_rows, grid, dtype, implementation):
    """Renders in two passes over the rows: first the space feature, then motion and colour, which sample it anywhere."""
    space, motion, colour = weights
    finish = functools.partial(siren.finish, dtype=dtype, implementation=implementation)
    features, frames = encoded.features, encoded.frames
    batch, height, width, _ = frames.shape
    times = times.astype(jnp.float32)[:, :, None, None, None]  # [B, T, 1, 1, 1]

    # The first layers are linear: applied at low resolution once, for all instants: [B, H, W, hidden].
    for_space = siren.project(space, dtype, features=features, frames=frames)
    for_motion = siren.project(motion, dtype, features=features, frames=frames)
    for_colour = (
        ops.SampledImage.of(siren.project(colour, dtype, features1=features, frames1=frames)),
        ops.SampledImage.of(siren.project(colour, dtype, features2=features, frames2=frames)),
    )
    rows = axes.Axis.of(out_size[0], height, grid.base_y)
    columns = axes.Axis.of(out_size[1], width, grid.base_x)

    def render(times):  # [B, T, 1, 1, 1] -> [B, T, H', W', 3]
        feature = _map_rows(functools.partial(render_space, times), rows, chunk_rows)
        flat_feature = ops.SampledImage.of(
            feature.reshape(-1, *out_size, feature.shape[-1])
        )  # [B*T, H', W', C]
        colour_of = functools.partial(render_colour, times, flat_feature)
        return _map_rows(colour_of, (rows, feature), chunk_rows)

    def render_space(times, rows):  # -> [B, T, rows, W', C]
        near = for_space[:, rows.nearest][:, :, columns.nearest]
        near = axes.sample_axes(near, for_space, rows.read_nearest(), columns.read_nearest())
        position = jnp.stack(jnp.meshgrid(rows.relative, columns.relative, indexing="ij"), axis=-1)
        return finish(space, near, position=position, time=times, out_dtype=dtype)

    def render_colour(times, flat_feature, args):  # -> [B, T, rows, W', 3]
        rows, s = args
        smooth = columns.interpolate(rows.interpolate(for_motion, axis=1), axis=2)
        smooth = axes.sample_axes(smooth, for_motion, rows.read_bilinear(), columns.read_bilinear())
        flows = finish(motion, smooth, time=times, space=s)  # two flows (x, y) in output pixels
        terms, spaces = [], {}
        for i in (0, 1):
            warped = _warp(flows[..., 2 * i : 2 * i + 2], rows.base, columns.base, (grid.step_y, grid.step_x))
            on_output = normalized_to_pixels(warped, out_size)
            on_output = on_output.reshape(-1, *on_output.shape[2:])  # [B*T, rows, W', 2]
            spaces[f"space{i + 1}"] = ops.Samples.bilinear(flat_feature, on_output).reshape(s.shape[:-1])
            terms.append(ops.Samples.bilinear(for_colour[i], normalized_to_pixels(warped, (height, width))))
        return finish(colour, tuple(terms), time=times, **spaces)

    if chunk_rows is None:
        return render(times)
    instants = jax.lax.map(lambda t: render(t[:, None])[:, 0], jnp.moveaxis(times, 1, 0))  # [T, B, H', W', 3]
    return jnp.moveaxis(instants, 0, 1)


def _warp(flow, base_y, base_x, step):
    """Returns where a flow (x, y) in output pixels leads, (y, x) in [-1, 1]; see `warp_grid`."""
    y = base_y[:, None] + flow[..., 1] * step[0]
    x = base_x + flow[..., 0] * step[1]
    return jnp.clip(jnp.stack([y, x], axis=-1), -CLAMP, CLAMP)


def _map_rows(render, inputs, chunk_rows):
    """Calls render on chunks of rows and concatenates the results along the row axis (2 of 5).

    Args:
      render: from inputs of r rows to [B, T, r, W', ...].
      inputs: pytree of [rows] vectors and [B, T, rows, ...] arrays.
      chunk_rows: rows of a chunk, or None for all at once.
    """
    count = jax.tree.leaves(inputs)[0].shape[0]
    if chunk_rows is None or chunk_rows >= count:
        return render(inputs)
    chunks = -(-count // chunk_rows)

    def split(x):  # the row axis becomes [chunks, chunk_rows]; the last chunk repeats the last row
        axis = 0 if x.ndim == 1 else 2
        if count % chunk_rows:
            index = np.minimum(np.arange(chunks * chunk_rows), count - 1)
            x = jnp.take(x, index, axis=axis)
        x = x.reshape(*x.shape[:axis], chunks, chunk_rows, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    out = ops.map_steps(render, jax.tree.map(split, inputs))  # [chunks, B, T, chunk_rows, W', ...]
    out = jnp.moveaxis(out, 0, 2)
    return out.reshape(*out.shape[:2], chunks * chunk_rows, *out.shape[4:])[:, :, :count]
