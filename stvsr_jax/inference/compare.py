"""The output beside the input, its pixels and bicubic: a picture of two moments, or a whole video."""

from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stvsr_jax import bicubic
from stvsr_jax.inference.video_reader import TimedFrame

_MARGIN = 4  # pixels around a label


def enlarge(image: np.ndarray, out_size: tuple[int, int]) -> np.ndarray:
    """Enlarges uint8 [H, W, 3] bicubically to uint8 [H', W', 3]."""
    return bicubic.to_uint8(bicubic.imresize(image, out_size=out_size))


def put_label(image: np.ndarray, text: str) -> np.ndarray:
    """Returns a copy of uint8 [H, W, 3] with white text on black in its upper left corner."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(10, image.shape[0] // 40))
    left, top, right, bottom = draw.textbbox((_MARGIN, _MARGIN), text, font=font)
    draw.rectangle((left - _MARGIN, top - _MARGIN, right + _MARGIN, bottom + _MARGIN), fill=(0, 0, 0))
    draw.text((_MARGIN, _MARGIN), text, font=font, fill=(255, 255, 255))
    return np.asarray(picture)


def side_by_side(output: np.ndarray, source: np.ndarray, label: str) -> np.ndarray:
    """Puts the enlarged input on the left and the output on the right.

    Args:
      output: uint8 [H', W', 3].
      source: uint8 [H, W, 3], the input frame shown at that moment.
      label: text for the output.

    Returns:
      uint8 [H', 2 W', 3].
    """
    left = put_label(enlarge(source, output.shape[:2]), "bicubic, frame repeated")
    return np.concatenate([left, put_label(output, label)], axis=1)


class PictureOfTwoMoments:
    """Collects a given and an interpolated frame near the middle of the video, for one picture.

    Args:
      target: input frame from which on a pair is good enough; earlier ones serve if none comes.
    """

    def __init__(self, target: int):
        self._target = target
        self._inputs = -1  # index of the current input frame
        self._given = None
        self._moments = []
        self._is_done = False

    def add(self, output: TimedFrame, offset: Fraction, source: TimedFrame) -> None:
        """Takes the next output; see `pipeline.upscale`."""
        if self._is_done:
            return
        if self._given is None or source is not self._given[1]:
            self._inputs += 1
            self._given = (output, source, "model, given frame")
            if len(self._moments) < 2 and self._inputs <= self._target:
                self._moments = [self._given]
        elif abs(offset - Fraction(1, 2)) <= Fraction(1, 4):
            self._moments = [self._given, (output, source, f"model, interpolated at {float(offset):.2f}")]
            self._is_done = self._inputs >= self._target

    def render(self) -> np.ndarray:
        """Returns uint8 [h, w, 3]: a row per moment with the input's pixels, bicubic and the output."""
        rows = []
        for output, source, label in self._moments:
            height, width = output.image.shape[:2]
            pixels = Image.fromarray(source.image).resize((width, height), Image.Resampling.NEAREST)
            columns = put_label(np.asarray(pixels), "input"), side_by_side(output.image, source.image, label)
            rows.append(np.concatenate(columns, axis=1))
        return np.concatenate(rows)
