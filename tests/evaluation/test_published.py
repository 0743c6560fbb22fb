"""Published scores: known literals, and that every one fits our data sets and protocols."""

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
def test_known_scores(dataset, protocol, method, psnr, ssim):
    found = {score.method: score for score in published.find_scores(dataset, protocol)}
    assert (found[method].psnr_y, found[method].ssim_y) == (psnr, ssim)


def test_center_is_above_average_in_every_table():
    """The given frame in it makes it so: the middle frame alone is the hardest of all."""
    scores = {(f.method, f.dataset, f.protocol): f.psnr_y for f in published.SCORES}
    pairs = [key for key in scores if key[2] and key[2].endswith("center")]
    assert len(pairs) == 10
    for method, dataset, protocol in pairs:
        average = scores[method, dataset, protocol.replace("center", "average")]
        assert scores[method, dataset, protocol] > average


def test_nothing_published_is_of_the_middle_frame_alone():
    assert not [f for f in published.SCORES if f.protocol == "middle"]


def test_every_score_has_a_source_and_fits_a_data_set():
    for score in published.SCORES:
        assert score.source and score.dataset in LAYOUTS
        assert score.protocol is None or score.protocol in PROTOCOLS
        assert score.protocol is not None or score.remark  # says why it is compared with nothing
        assert 15 < score.psnr_y < 50 and 0.3 < score.ssim_y < 1


def test_scores_of_unstated_protocols_are_beside_nothing():
    found = {score for name in LAYOUTS for p in PROTOCOLS for score in published.find_scores(name, p)}
    assert found == {score for score in published.SCORES if score.protocol}
    assert len(found) < len(published.SCORES)
