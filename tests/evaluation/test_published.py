"""Published figures: known literals, and that every one fits our data sets and protocols."""

import pytest

from stvsr_jax.evaluation import published
from stvsr_jax.evaluation.datasets import LAYOUTS
from stvsr_jax.evaluation.protocols import PROTOCOLS


@pytest.mark.parametrize(
    ("dataset", "protocol", "method", "psnr", "ssim"),
    [
        ("vid4", "zsm", "Zooming Slow-Mo (released weights)", 26.38, 0.7977),
        ("vimeo90k-fast", "zsm", "Zooming Slow-Mo", 36.81, 0.9415),
        ("gopro", "average", "VideoINR", 29.41, 0.8669),
        ("adobe240", "center", "VideoINR", 29.92, 0.8746),
        ("gopro", "center", "MoTIF", 31.04, 0.8877),
        ("adobe240", "average", "BF-STVSR", 30.12, 0.8808),
        ("adobe240", "v3_average", "V3", 32.24, 0.916),
        ("gopro", "v3_center", "V3-Large", 33.09, 0.925),
    ],
)
def test_known_figures(dataset, protocol, method, psnr, ssim):
    found = {figure.method: figure for figure in published.find_figures(dataset, protocol)}
    assert (found[method].psnr_y, found[method].ssim_y) == (psnr, ssim)


def test_center_is_above_average_in_every_table():
    """The given frame in it makes it so: the middle frame alone is the hardest of all."""
    figures = {(f.method, f.dataset, f.protocol): f.psnr_y for f in published.FIGURES}
    pairs = [key for key in figures if key[2] and key[2].endswith("center")]
    assert len(pairs) == 10
    for method, dataset, protocol in pairs:
        average = figures[method, dataset, protocol.replace("center", "average")]
        assert figures[method, dataset, protocol] > average


def test_nothing_published_is_of_the_middle_frame_alone():
    assert not [f for f in published.FIGURES if f.protocol == "middle"]


def test_every_figure_has_a_source_and_fits_a_data_set():
    for figure in published.FIGURES:
        assert figure.source and figure.dataset in LAYOUTS
        assert figure.protocol is None or figure.protocol in PROTOCOLS
        assert figure.protocol is not None or figure.remark  # says why it is compared with nothing
        assert 15 < figure.psnr_y < 50 and 0.3 < figure.ssim_y < 1


def test_figures_of_unstated_protocols_are_beside_nothing():
    found = {figure for name in LAYOUTS for p in PROTOCOLS for figure in published.find_figures(name, p)}
    assert found == {figure for figure in published.FIGURES if figure.protocol}
    assert len(found) < len(published.FIGURES)
