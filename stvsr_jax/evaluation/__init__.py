"""Scores of networks and baselines on data sets, under named protocols.

`python -m stvsr_jax.evaluation DATA --protocol zsm --model CHECKPOINT --out DIR`
"""
