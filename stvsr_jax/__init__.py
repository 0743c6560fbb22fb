"""Space-time video super-resolution in JAX: Zooming Slow-Mo and VideoINR."""

__version__ = "0.1.0"
