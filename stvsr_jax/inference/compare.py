"""The output beside the input, its pixels and bicubic: a picture of two moments, or a whole video."""

import itertools
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stvsr_jax import bicubic
from stvsr_jax.inference import pipeline
from stvsr_jax.inference.streaming import Window
from stvsr_jax.video import colour

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
      output: uint8 or uint16 [H', W', 3].
      source: uint8 or uint16 [H, W, 3], the input frame shown at that moment.
      label: text for the output.

    Returns:
      uint8 [H', 2 W', 3].
    """
    output, source = colour.to_8_bits(output), colour.to_8_bits(source)
    left = put_label(enlarge(source, output.shape[:2]), "bicubic, frame repeated")
    return np.concatenate([left, put_label(output, label)], axis=1)


def picture_of_two_moments(
    windows: Iterable[Window], predict: pipeline.Predict, middle: Fraction
) -> np.ndarray:
    """Renders a given and an interpolated frame near the middle of the video beside their input.

    Args:
      windows: of the whole video.
      predict: the network.
      middle: seconds; the first pair at or after it is taken, the last before it if there is none, the first
        frame alone if nothing is interpolated.

    Returns:
      uint8 [h, w, 3]: a row per moment with the input's pixels, bicubic and the output.
    """
    chosen = None
    for window in windows:
        moments = _find_pair(window, middle)
        if chosen is None or len(moments) == 2:
            chosen = window, moments
        if len(moments) == 2 and moments[0][1].time >= middle:
            break
    window, moments = chosen
    instants = [instant for instant, _ in moments]
    images = predict(np.stack([frame.image for frame in window.frames])[None], [instants], 0)[0]
    rows = []
    for image, instant in zip(images, instants, strict=True):
        offset = instant - int(instant)
        label = f"model, interpolated at {float(offset):.2f}" if offset else "model, given frame"
        source = colour.to_8_bits(window.frames[int(instant)].image)
        height, width = image.shape[:2]
        pixels = Image.fromarray(source).resize((width, height), Image.Resampling.NEAREST)
        columns = put_label(np.asarray(pixels), "input"), side_by_side(image, source, label)
        rows.append(np.concatenate(columns, axis=1))
    return np.concatenate(rows)


def _find_pair(window, middle):
    """Returns [(instant, moment)]: a given frame and one well between it and the next, or the first alone."""
    pairs = [
        (given, between)
        for given, between in itertools.product(window.outputs, repeat=2)
        if given[0] == int(given[0]) == int(between[0])
        and Fraction(1, 4) <= between[0] - given[0] <= Fraction(3, 4)
    ]
    late = [pair for pair in pairs if pair[0][1].time >= middle]
    return list((late or pairs[-1:])[0]) if pairs else [window.outputs[0]]
