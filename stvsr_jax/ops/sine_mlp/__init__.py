"""The SIREN MLP."""

from stvsr_jax.ops.sine_mlp.api import sine_mlp

__all__ = ["sine_mlp"]
