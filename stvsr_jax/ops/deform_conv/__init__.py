"""Modulated deformable convolution."""

from stvsr_jax.ops.deform_conv.api import deform_columns, deform_conv2d, deform_conv2d_of_head

__all__ = ["deform_columns", "deform_conv2d", "deform_conv2d_of_head"]
