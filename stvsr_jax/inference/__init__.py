"""Video in, video out: reading, windows, prediction, tiles, writing.

`python -m stvsr_jax.inference` runs it.
"""
