"""TFDS builders of the published data sets, without TensorFlow; see `prepare` for the command line."""

from stvsr_jax.data.builders.adobe240 import Adobe240
from stvsr_jax.data.builders.gopro import Gopro
from stvsr_jax.data.builders.vimeo90k import Vimeo90k

BUILDERS = {"adobe240": Adobe240, "gopro": Gopro, "vimeo90k": Vimeo90k}

__all__ = ["BUILDERS", "Adobe240", "Gopro", "Vimeo90k"]
