"""What a camera and a file do to frames before anyone enlarges them: blur, noise, compression, in this order.

Each sample draws whether it is degraded, by which of the three, and how much. Blur is the same in all frames of a window.
Noise is new in each. The frames are compressed as one video (`compression`), so artefacts stay, move and fade as they do in
files. Sizes are in pixels of the input, values in levels of 255.
"""

import ast
import dataclasses
import math

import numpy as np

from stvsr_jax.data import compression, reduction

# Side of the blocks that H.264 codes; a crop lies anywhere among them.
_BLOCK = 16
# A window may begin so many frames after the key frame, which is sharper than those behind it.
_MAX_LEAD = 3


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Degradation:
    """Shares from 0 to 1, and (low, high) ranges that are drawn from evenly.

    Attributes:
      clean: share of the samples that are not degraded; the other shares are of the rest.
      blur: share that is blurred with a Gaussian.
      blur_sigma: its standard deviation along each of its two axes, in pixels.
      round_blur: share of the blurs with the same along both.
      noise: share with noise.
      noise_sigma: its standard deviation in black, in levels.
      noise_gain: how much its variance grows with each level of brightness.
      grey_noise: share of the noises that are the same in red, green and blue.
      coding: share that is coded with H.264.
      crf: its quality, see `compression.H264`. A window alone comes out some 1.5 dB better than within a whole video.
      presets: one is drawn.
      gops: one is drawn.
    """

    clean: float
    blur: float
    blur_sigma: tuple[float, float]
    round_blur: float
    noise: float
    noise_sigma: tuple[float, float]
    noise_gain: tuple[float, float]
    grey_noise: float
    coding: float
    crf: tuple[float, float]
    presets: tuple[str, ...]
    gops: tuple[int, ...]

    def __post_init__(self):
        for name in ("clean", "blur", "round_blur", "noise", "grey_noise", "coding"):
            if not _is_number(share := getattr(self, name)) or not 0 <= share <= 1:
                raise ValueError(f"degrade: {name}={share} must be a share from 0 to 1")
        for name in ("blur_sigma", "noise_sigma", "noise_gain", "crf"):
            ends = getattr(self, name)
            fits = isinstance(ends, tuple) and len(ends) == 2 and all(map(_is_number, ends))
            if not fits or not 0 <= ends[0] <= ends[1] < math.inf:
                raise ValueError(f"degrade: {name}={ends} must be a (low, high) range with 0 <= low <= high")
        if self.blur and not self.blur_sigma[0] > 0:
            raise ValueError(f"degrade: blur_sigma={self.blur_sigma} must be above 0")
        for name in ("presets", "gops"):
            if not isinstance(getattr(self, name), tuple) or not getattr(self, name):
                raise ValueError(f"degrade: {name}={getattr(self, name)!r} must be a tuple of at least one")
        try:
            for preset in self.presets:
                compression.H264(self.crf[1], preset)
            for gop in self.gops:
                compression.H264(self.crf[0], gop=gop)
        except (ValueError, TypeError) as error:
            raise ValueError(f"degrade: {error}") from error


DEGRADATIONS: dict[str, Degradation] = {
    # Ordinary video files.
    "video": Degradation(
        clean=0.25,
        blur=0.3,
        blur_sigma=(0.2, 1.0),
        round_blur=0.5,
        noise=0.3,
        noise_sigma=(0.0, 5.0),
        noise_gain=(0.0, 0.15),
        grey_noise=0.5,
        coding=0.9,
        crf=(18.0, 38.0),
        presets=("ultrafast", "veryfast", "fast", "medium"),
        gops=(4, 250, 250),
    ),
}


def parse_degradation(text: str) -> Degradation | None:
    """Returns what `data.degrade` names: '' for none, a name, or "('NAME', {'OPTION': VALUE})" to change some of it.

    Raises:
      ValueError: the name or an option is unknown, or a value is impossible.
    """
    if not text:
        return None
    name, options = text, {}
    form = "('NAME', {'OPTION': VALUE, ...})"
    if text.lstrip().startswith("("):
        try:
            name, options = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"data: degrade={text} is not written like {form}: {error}") from error
        if not isinstance(name, str) or not isinstance(options, dict):
            raise ValueError(f"data: degrade={text} is not written like {form}")
    if name not in DEGRADATIONS:
        raise ValueError(f"data: degrade={name!r} is not one of {sorted(DEGRADATIONS)}, or '' for none")
    known = {field.name for field in dataclasses.fields(Degradation)}
    if unknown := sorted(map(str, set(options) - known)):
        raise ValueError(f"data: degrade has unknown options {unknown}; they are {sorted(known)}")
    return dataclasses.replace(DEGRADATIONS[name], **options)


def degrade(
    frames: np.ndarray, degradation: Degradation, *, rng: np.random.Generator, quantize: bool
) -> np.ndarray:
    """Degrades a window.

    Args:
      frames: float32 [N, H, W, 3] in [0, 1], a crop.
      degradation: what to draw from.
      rng: makes all choices.
      quantize: round to 8 bits also what is not coded.

    Returns:
      float32 [N, H, W, 3] in [0, 1]; of a clean sample `frames` itself.
    """
    if rng.random() < degradation.clean:
        return frames
    levels = frames * np.float32(255)
    if rng.random() < degradation.blur:
        levels = blur(levels, _draw_kernel(rng, degradation))
    if rng.random() < degradation.noise:
        levels = add_noise(
            levels,
            rng=rng,
            sigma=rng.uniform(*degradation.noise_sigma),
            gain=rng.uniform(*degradation.noise_gain),
            is_grey=rng.random() < degradation.grey_noise,
        )
    if rng.random() >= degradation.coding:
        return reduction.to_unit(levels, quantize=quantize)
    settings = compression.H264(
        crf=round(rng.uniform(*degradation.crf), 1),
        preset=degradation.presets[rng.integers(len(degradation.presets))],
        gop=degradation.gops[rng.integers(len(degradation.gops))],
    )
    lead = int(rng.integers(min(len(frames) - 1, _MAX_LEAD) + 1))
    place = tuple(int(first) for first in rng.integers(1, _BLOCK + 1, size=2))
    coded = code_crop(np.round(np.clip(levels, 0, 255)).astype(np.uint8), settings, lead=lead, place=place)
    return coded.astype(np.float32) / np.float32(255)


def blur_kernel(sigma: tuple[float, float], angle: float) -> np.ndarray:
    """Returns a Gaussian, float64 [2 r + 1, 2 r + 1], that sums to 1.

    Args:
      sigma: standard deviations along its two axes, in pixels.
      angle: of the first axis, from y towards x, in radians.
    """
    radius = math.ceil(3 * max(sigma))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along = y * math.cos(angle) + x * math.sin(angle)
    across = x * math.cos(angle) - y * math.sin(angle)
    kernel = np.exp(-0.5 * ((along / sigma[0]) ** 2 + (across / sigma[1]) ** 2))
    return kernel / kernel.sum()


def blur(frames: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves float32 [N, H, W, 3] with a symmetric kernel [k, k], k odd; mirrored at the borders."""
    height, width = frames.shape[1:3]
    radius = len(kernel) // 2
    padded = np.pad(frames, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    result = np.zeros_like(frames)
    for (y, x), weight in np.ndenumerate(kernel.astype(np.float32)):
        result += weight * padded[:, y : y + height, x : x + width]
    return result


def add_noise(
    frames: np.ndarray, *, rng: np.random.Generator, sigma: float, gain: float, is_grey: bool
) -> np.ndarray:
    """Adds Gaussian noise of variance sigma ** 2 + gain * value, new in each frame.

    Args:
      frames: float32 [N, H, W, 3] in levels.
      rng: draws it.
      sigma, gain: in levels.
      is_grey: whether the three channels share what is drawn.
    """
    drawn = rng.standard_normal((*frames.shape[:3], 1 if is_grey else 3), dtype=np.float32)
    return frames + drawn * np.sqrt(np.float32(sigma**2) + np.float32(gain) * np.clip(frames, 0, 255))


def code_crop(
    frames: np.ndarray, settings: compression.H264, *, lead: int, place: tuple[int, int]
) -> np.ndarray:
    """Codes a crop as if it were a part of a larger, longer video.

    Around it is its mirror image, and before it are its next frames, backwards. Whole frames in place of the mirror
    image give the same error to a third of a decibel, inside and along the borders, but cost the reading.

    Args:
      frames: uint8 [N, H, W, 3].
      settings: of the encoder.
      lead: frames from the key frame to the first one, below N.
      place: (y, x) of the crop in the coded picture, from 1 to 16.
    """
    height, width = frames.shape[1:3]
    # Room for every place, so that all windows are coded in pictures of one size.
    room = (-(-side // _BLOCK) * _BLOCK + 2 * _BLOCK - side for side in (height, width))
    pads = [(first, both - first) for first, both in zip(place, room, strict=True)]
    padded = np.pad(frames, ((0, 0), *pads, (0, 0)), mode="symmetric")
    coded = np.stack(list(compression.code([*padded[lead:0:-1], *padded], settings)))
    y, x = place
    return coded[lead:, y : y + height, x : x + width]


def _draw_kernel(rng: np.random.Generator, degradation: Degradation) -> np.ndarray:
    first, second = rng.uniform(*degradation.blur_sigma, size=2)
    angle = rng.uniform(0, math.pi)
    is_round = rng.random() < degradation.round_blur
    return blur_kernel((first, first if is_round else second), angle)
