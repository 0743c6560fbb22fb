"""`python -m stvsr_jax` is the command `stvsr`."""

import sys

from stvsr_jax.command import main

if __name__ == "__main__":
    sys.exit(main())
