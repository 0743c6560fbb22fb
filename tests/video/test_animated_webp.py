"""Animated WebP made with Pillow."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.video import animated_webp, sequential_reader


def write(path, durations, *, alpha=255, size=(32, 48)):
    frames = []
    for i in range(len(durations)):
        pixels = np.full((*size, 4), 20 + 30 * i, np.uint8)
        pixels[..., 3] = 255
        pixels[: size[0] // 2, :, 3] = alpha
        frames.append(Image.fromarray(pixels))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, lossless=True)
    return path


def test_frames_come_with_their_times(tmp_path):
    durations = [40, 40, 120, 50, 200]
    path = write(tmp_path / "a.webp", durations)
    assert animated_webp.is_animated_webp(path) and animated_webp.read_durations(path) == durations
    info = sequential_reader.probe(path)
    frames = list(sequential_reader.read_frames(info))
    assert (info.height, info.width, info.frame_count, info.is_constant_rate) == (32, 48, 5, False)
    assert [frame.duration * 1000 for frame in frames] == durations and not info.has_alpha
    assert [frame.image[0, 0, 0] for frame in frames] == [20, 50, 80, 110, 140]


def test_a_steady_rate_is_found(tmp_path):
    info = sequential_reader.probe(write(tmp_path / "a.webp", [40] * 6))
    frames = list(sequential_reader.read_frames(info))
    assert info.is_constant_rate and info.rate == 25
    assert frames[-1].time + frames[-1].duration == Fraction(6, 25)


def test_transparency_lies_on_black(tmp_path):
    path = write(tmp_path / "a.webp", [40, 40], alpha=0)
    info = sequential_reader.probe(path)
    images = [frame.image for frame in sequential_reader.read_frames(info)]
    assert info.has_alpha and all((image[:16] == 0).all() for image in images)
    assert [image[20, 0, 0] for image in images] == [20, 50]


def test_others_are_no_animations(tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "still.webp")
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    (tmp_path / "short").write_bytes(b"RIFF")
    for name in ("still.webp", "a.png", "short"):
        assert not animated_webp.is_animated_webp(tmp_path / name)
    damaged = write(tmp_path / "a.webp", [40] * 3)
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(ValueError, match="a.webp is not an animation that can be read"):
        sequential_reader.probe(damaged)
