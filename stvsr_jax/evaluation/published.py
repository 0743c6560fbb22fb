"""Published figures, as data, with where they were printed.

Only figures whose protocol is known to be one of ours are beside measured ones; `protocol=None` keeps the others
out of every such table. PSNR in dB and SSIM, both of Y.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PublishedFigure:
    """One cell of a published table.

    Attributes:
      method: as the source calls it.
      dataset: a key of `datasets.LAYOUTS`.
      protocol: a key of `protocols.PROTOCOLS`; None if the source leaves it open.
      psnr_y: dB.
      ssim_y: structural similarity.
      source: paper and table.
      remark: what a reader must know before comparing.
    """

    method: str
    dataset: str
    protocol: str | None
    psnr_y: float
    ssim_y: float
    source: str
    remark: str = ""


_ZSM = "Xiang et al., CVPR 2020, Table 1"
_VINR = "Chen et al., CVPR 2022, Table 1"
_RELEASED = "github.com/Mukosame/Zooming-Slow-Mo-CVPR-2020, issue 58"
_ONE_WINDOW = "clips of 7 frames are one window, so `zsm` and `full` are the same"
_SIZE = "the size of the ground truth is not stated"

FIGURES = (
    PublishedFigure("Zooming Slow-Mo (released weights)", "vid4", "zsm", 26.38, 0.7977, _RELEASED),
    PublishedFigure(
        "Zooming Slow-Mo", "vid4", None, 26.31, 0.7976, _ZSM, "windows and frames are not stated"
    ),
    PublishedFigure("Zooming Slow-Mo", "vimeo90k-fast", "zsm", 36.81, 0.9415, _ZSM, _ONE_WINDOW),
    PublishedFigure("Zooming Slow-Mo", "vimeo90k-medium", "zsm", 35.41, 0.9361, _ZSM, _ONE_WINDOW),
    PublishedFigure("Zooming Slow-Mo", "vimeo90k-slow", "zsm", 33.36, 0.9138, _ZSM, _ONE_WINDOW),
    PublishedFigure("VideoINR", "gopro", "center", 30.26, 0.8792, _VINR, _SIZE),
    PublishedFigure("VideoINR", "gopro", "average", 29.41, 0.8669, _VINR, _SIZE),
    PublishedFigure("VideoINR", "adobe240", "center", 29.92, 0.8746, _VINR, _SIZE),
    PublishedFigure("VideoINR", "adobe240", "average", 29.27, 0.8651, _VINR, _SIZE),
    PublishedFigure("VideoINR", "vid4", None, 25.61, 0.7709, _VINR, "windows and frames are not stated"),
)


def find_figures(dataset: str, protocol: str) -> list[PublishedFigure]:
    """Return the figures of a data set under a protocol."""
    return [figure for figure in FIGURES if (figure.dataset, figure.protocol) == (dataset, protocol)]
