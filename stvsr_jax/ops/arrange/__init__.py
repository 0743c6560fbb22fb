"""Concatenation, repetition and reordering of whole images."""

from stvsr_jax.ops.arrange.api import arrange

__all__ = ["arrange"]
