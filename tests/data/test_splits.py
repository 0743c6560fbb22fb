"""The published splits have the published sizes, and whoever scores on one needs no data-set library."""

import subprocess
import sys

from stvsr_jax.data import splits


def test_their_sizes_are_the_published_ones():
    assert (len(splits.ADOBE240_TEST), len(splits.ADOBE240_VALIDATION), len(splits.GOPRO_TEST)) == (
        17,
        16,
        11,
    )
    assert not splits.ADOBE240_TEST & splits.ADOBE240_VALIDATION


def test_evaluation_imports_no_tfds():
    code = "import sys, stvsr_jax.evaluation.__main__; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
