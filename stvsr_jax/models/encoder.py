"""The encoder both networks share: frames to features at the given and the in-between instants.

Zooming Slow-Mo (arXiv 2002.11616, sec. 3.1-3.3); VideoINR (arXiv 2206.04647, sec. 3.1) reuses it.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from stvsr_jax import ops
from stvsr_jax.models.conv_lstm import BidirectionalConvLSTM
from stvsr_jax.models.layers import LEAKY_RELU, Conv, ResidualStack
from stvsr_jax.models.pcd import FeaturePyramid, PairFusion


class SpaceTimeEncoder(nn.Module):
    """N frames to 2N - 1 features: one for each frame and one between each two neighbours."""

    features: int = 64
    front_blocks: int = 5
    back_blocks: int = 40
    groups: int = 8
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """Encodes.

        Args:
          frames: [B, N, H, W, 3] in [0, 1], N >= 2, H and W multiples of 4.

        Returns:
          [B, 2N - 1, H, W, C] in `dtype`, in time order.

        Raises:
          ValueError: the frames are not of that shape.
        """
        _check_frames(frames)
        batch, count, height, width, _ = frames.shape
        sizes = dict(features=self.features, dtype=self.dtype)

        x = frames.reshape(batch * count, height, width, 3)
        x = Conv(**sizes, name="conv_first")(x, slope=LEAKY_RELU)
        x = ResidualStack(**sizes, num_blocks=self.front_blocks, remat=self.remat, name="front")(x)
        pyramid = [
            level.reshape(batch, count, *level.shape[1:])
            for level in FeaturePyramid(**sizes, name="pyramid")(x)
        ]

        def pairs(part):  # [B * (N - 1), h, w, C] at each level
            return tuple(level[:, part].reshape(-1, *level.shape[2:]) for level in pyramid)

        fusion = PairFusion(**sizes, groups=self.groups, name="interpolate")
        between = fusion(pairs(slice(None, -1)), pairs(slice(1, None)))

        given = pyramid[0]
        between = between.reshape(batch, count - 1, *given.shape[2:])
        sequence = ops.arrange(_interleave, given, between)  # [B, 2N-1, H, W, C]

        lstm = BidirectionalConvLSTM(**sizes, groups=self.groups, remat=self.remat, name="conv_lstm")
        sequence = lstm(sequence)
        self.sow("intermediates", "conv_lstm_output", sequence)
        back = ResidualStack(**sizes, num_blocks=self.back_blocks, remat=self.remat, name="back")
        return back(sequence.reshape(-1, *given.shape[2:])).reshape(sequence.shape)


def _interleave(given, between):
    batch, count, *image = given.shape
    pairs = jnp.stack([given[:, :-1], between], axis=2).reshape(batch, 2 * count - 2, *image)
    return jnp.concatenate([pairs, given[:, -1:]], axis=1)


def _check_frames(frames):
    if frames.ndim != 5 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be [B, N, H, W, 3], got shape {frames.shape}")
    _, count, height, width, _ = frames.shape
    if count < 2:
        raise ValueError(f"frames must hold at least 2 frames of a clip, got N={count}")
    if height % 4 or width % 4:
        raise ValueError(
            f"frames must have height and width that are multiples of 4, got {height}x{width}; "
            "pad them and crop the result"
        )


def check_fields(model: nn.Module) -> None:
    """Checks a network's `features` and `groups`.

    Raises:
      ValueError: the features do not divide by the groups.
    """
    if model.features % model.groups:
        raise ValueError(f"features={model.features} must divide by the groups={model.groups} of the offsets")


def published_layers() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (layer's name in the published PyTorch weights, path of its parameters in a network's)."""
    yield "conv_first", ("encoder", "conv_first")
    for source, target, blocks in (("feature_extraction", "front", 5), ("recon_trunk", "back", 40)):
        for block in range(blocks):
            for conv in ("conv1", "conv2"):
                yield f"{source}.{block}.{conv}", ("encoder", target, "blocks", conv)
    yield from _pyramid_layers("", ("encoder", "pyramid"))
    yield from _fusion_layers("", ("encoder", "interpolate"))
    for state, ours in (("pcd_h", "hidden"), ("pcd_c", "cell")):
        source = f"ConvBLSTM.forward_net.{state}."
        yield from _pyramid_layers(source, ("encoder", "conv_lstm", "cell", f"pyramid_{ours}"))
        yield from _fusion_layers(source, ("encoder", "conv_lstm", "cell", f"fusion_{ours}"))
    yield "ConvBLSTM.forward_net.cell_list.0.conv", ("encoder", "conv_lstm", "cell", "gates")
    yield "ConvBLSTM.conv_1x1", ("encoder", "conv_lstm", "merge")


def _pyramid_layers(source, target):
    for level in (2, 3):
        for conv in (1, 2):
            yield f"{source}fea_L{level}_conv{conv}", (*target, f"level{level}_conv{conv}")


def _fusion_layers(source, target):
    for suffix, align in ((1, "align_a"), (2, "align_b")):
        for level in (3, 2, 1):
            for i in range(1, 3 if level == 3 else 4):
                yield (
                    f"{source}pcd_align.L{level}_offset_conv{i}_{suffix}",
                    (*target, align, f"level{level}_offset{i}"),
                )
            deform = f"{source}pcd_align.L{level}_dcnpack_{suffix}"
            yield deform, (*target, align, f"level{level}_deform")
            yield f"{deform}.conv_offset_mask", (*target, align, f"level{level}_deform", "head")
            if level < 3:
                yield f"{source}pcd_align.L{level}_fea_conv_{suffix}", (*target, align, f"level{level}_merge")
    yield f"{source}fusion", (*target, "fuse")
