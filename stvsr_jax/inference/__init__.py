"""Video in, video out: windows of frames, the network, tiles, jobs that can be resumed.

`python -m stvsr_jax.inference` runs it.
"""
