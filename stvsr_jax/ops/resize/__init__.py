"""Resizing on fixed grids."""

from stvsr_jax.ops.resize.api import imresize, upsample_bilinear_2x

__all__ = ["imresize", "upsample_bilinear_2x"]
