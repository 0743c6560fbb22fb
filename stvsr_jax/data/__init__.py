"""Video clips, the windows cut from them, and the input pipeline; numpy only, no jax."""

from stvsr_jax.data.datasets import DataConfig, Datasets, make_datasets

__all__ = ["DataConfig", "Datasets", "make_datasets"]
