"""Published scores, as data, with where they were printed.

Only scores whose protocol is known to be one of ours are beside measured ones; `protocol=None` keeps the others
out of every such table. PSNR in dB and SSIM, both of Y.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PublishedScore:
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
# Read in summaries of the papers, two of each that agree to the last digit.
_BF = "Kim et al., CVPR 2025 (arXiv 2501.11043), comparison at fixed scale"
_MOTIF = f"Chen et al., ICCV 2023, as quoted by {_BF}"
_V3 = "Becker et al., ICLR 2026 (arXiv 2509.26325v2), Table 1"
_VINR = "Chen et al., CVPR 2022, Table 1"
_RELEASED = "github.com/Mukosame/Zooming-Slow-Mo-CVPR-2020, issue 58"
_ONE_WINDOW = "clips of 7 frames are one window, so `zsm` and `full` are the same"
_SIZE = "the size of the ground truth is not stated"
_VERSION = "SSIM has three digits; another version of the paper has up to 0.06 dB more"

SCORES = (
    PublishedScore("Zooming Slow-Mo (released weights)", "vid4", "zsm", 26.38, 0.7977, _RELEASED),
    PublishedScore("Zooming Slow-Mo", "vid4", None, 26.31, 0.7976, _ZSM, "windows and frames are not stated"),
    PublishedScore("Zooming Slow-Mo", "vimeo90k-fast", "zsm", 36.81, 0.9415, _ZSM, _ONE_WINDOW),
    PublishedScore("Zooming Slow-Mo", "vimeo90k-medium", "zsm", 35.41, 0.9361, _ZSM, _ONE_WINDOW),
    PublishedScore("Zooming Slow-Mo", "vimeo90k-slow", "zsm", 33.36, 0.9138, _ZSM, _ONE_WINDOW),
    PublishedScore("VideoINR", "gopro", "center", 30.26, 0.8792, _VINR, _SIZE),
    PublishedScore("VideoINR", "gopro", "average", 29.41, 0.8669, _VINR, _SIZE),
    PublishedScore("VideoINR", "adobe240", "center", 29.92, 0.8746, _VINR, _SIZE),
    PublishedScore("VideoINR", "adobe240", "average", 29.27, 0.8651, _VINR, _SIZE),
    PublishedScore("VideoINR", "vid4", None, 25.61, 0.7709, _VINR, "windows and frames are not stated"),
    PublishedScore("MoTIF", "gopro", "center", 31.04, 0.8877, _MOTIF, _SIZE),
    PublishedScore("MoTIF", "gopro", "average", 30.04, 0.8773, _MOTIF, _SIZE),
    PublishedScore("MoTIF", "adobe240", "center", 30.63, 0.8839, _MOTIF, _SIZE),
    PublishedScore("MoTIF", "adobe240", "average", 29.82, 0.8750, _MOTIF, _SIZE),
    PublishedScore("MoTIF", "vid4", None, 25.79, 0.7745, _MOTIF, "windows and frames are not stated"),
    PublishedScore("BF-STVSR", "gopro", "center", 31.17, 0.8898, _BF, _SIZE),
    PublishedScore("BF-STVSR", "gopro", "average", 30.22, 0.8802, _BF, _SIZE),
    PublishedScore("BF-STVSR", "adobe240", "center", 30.83, 0.8880, _BF, _SIZE),
    PublishedScore("BF-STVSR", "adobe240", "average", 30.12, 0.8808, _BF, _SIZE),
    PublishedScore("BF-STVSR", "vid4", None, 25.85, 0.7772, _BF, "windows and frames are not stated"),
    PublishedScore("V3", "gopro", "v3_center", 32.93, 0.922, _V3, _VERSION),
    PublishedScore("V3", "gopro", "v3_average", 32.24, 0.918, _V3, _VERSION),
    PublishedScore("V3", "adobe240", "v3_center", 32.85, 0.921, _V3, _VERSION),
    PublishedScore("V3", "adobe240", "v3_average", 32.24, 0.916, _V3, _VERSION),
    PublishedScore("V3", "vid4", None, 26.76, 0.818, _V3, "windows and frames are not stated"),
    PublishedScore("V3-Large", "gopro", "v3_center", 33.09, 0.925, _V3, _VERSION),
    PublishedScore("V3-Large", "gopro", "v3_average", 32.36, 0.921, _V3, _VERSION),
    PublishedScore("V3-Large", "adobe240", "v3_center", 33.08, 0.924, _V3, _VERSION),
    PublishedScore("V3-Large", "adobe240", "v3_average", 32.45, 0.919, _V3, _VERSION),
    PublishedScore("V3-Large", "vid4", None, 26.82, 0.821, _V3, "windows and frames are not stated"),
)


def find_scores(dataset: str, protocol: str) -> list[PublishedScore]:
    """Returns the scores of a data set under a protocol."""
    return [score for score in SCORES if (score.dataset, score.protocol) == (dataset, protocol)]
