"""What networks compute in: float32, or 16 bits where devices have units for them.

float16 is as fast as bfloat16 on a GPU and rounds an eighth as much, enough for networks that are only run; it has no
range to train in.
"""

from stvsr_jax.models import DTYPES

AUTO = "auto"
CHOICES = (AUTO, *DTYPES)
_DTYPE_ON = {"gpu": "float16", "cuda": "float16", "rocm": "float16", "tpu": "bfloat16"}


def choose_dtype(name: str, platform: str) -> str:
    """Returns a key of DTYPES: `name`, or what AUTO is on a platform."""
    return _DTYPE_ON.get(platform, "float32") if name == AUTO else name
