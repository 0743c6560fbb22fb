"""Video clips, the windows cut from them, and the input pipeline; numpy only, no jax.

The names of this package are imported when they are first used: grain, which the pipeline runs on, takes a second, and
those who only read a video's frames do without.
"""

from typing import Any

__all__ = ["DataConfig", "Datasets", "make_datasets"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stvsr_jax.data import datasets

    return getattr(datasets, name)
