"""A page in the browser: `python -m stvsr_jax.demo`. `page` is what one sees, `jobs` what it does; needs the extra `demo`."""
