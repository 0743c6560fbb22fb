"""Pure array operations, NHWC; coordinates are (y, x) in pixels with centres at integers."""

from stvsr_jax.ops.arrange import arrange
from stvsr_jax.ops.conv import conv2d
from stvsr_jax.ops.deform_conv import deform_columns, deform_conv2d, deform_conv2d_of_head
from stvsr_jax.ops.resize import imresize, upsample_bilinear_2x
from stvsr_jax.ops.sampling import (
    SampledImage,
    Samples,
    bilinear_sample,
    grid_sample,
    interpolate_frames,
    nearest_sample,
)
from stvsr_jax.ops.scan import ConvWeights, map_steps, scan, scan_layers
from stvsr_jax.ops.shuffle import pixel_shuffle
from stvsr_jax.ops.sine import sine
from stvsr_jax.ops.sine_mlp import sine_mlp

__all__ = [
    "SampledImage",
    "Samples",
    "arrange",
    "bilinear_sample",
    "ConvWeights",
    "conv2d",
    "deform_columns",
    "deform_conv2d",
    "deform_conv2d_of_head",
    "scan_layers",
    "grid_sample",
    "imresize",
    "interpolate_frames",
    "map_steps",
    "nearest_sample",
    "pixel_shuffle",
    "scan",
    "sine",
    "sine_mlp",
    "upsample_bilinear_2x",
]
