"""Small videos and clips made on the spot."""

import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest


@pytest.fixture
def draw_frames():
    """Return a function that draws frames uint8 [N, H, W, 3]: a moving texture, every frame different."""

    def draw(count, height, width, *, seed=0, speed=1.5):
        texture = np.random.default_rng(seed).uniform(20, 230, (height // 8 + 40, width // 8 + 40, 3))
        y, x = np.mgrid[:height, :width]
        frames = []
        for n in range(count):
            row, column = (y + speed * n) / 8, (x + 0.7 * speed * n) / 8
            i, j = row.astype(int), column.astype(int)
            a, b = (row - i)[..., None], (column - j)[..., None]
            i, j = i % (texture.shape[0] - 1), j % (texture.shape[1] - 1)
            top = texture[i, j] * (1 - b) + texture[i, j + 1] * b
            bottom = texture[i + 1, j] * (1 - b) + texture[i + 1, j + 1] * b
            frames.append(top * (1 - a) + bottom * a)
        return np.round(frames).astype(np.uint8)

    return draw


@pytest.fixture
def write_video():
    """Return a function that encodes frames uint8 [N, H, W, 3] to a file."""

    def write(path, frames, *, codec="libx264", pix_fmt="yuv420p", options=None):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            for n, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture.pts, picture.time_base = n, Fraction(1, 25)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return path

    return write


@dataclasses.dataclass(frozen=True)
class ArrayClip:
    """Frames held in memory, as a clip."""

    name: str
    frames: np.ndarray
    scenes: tuple

    @property
    def num_frames(self):
        return self.frames.shape[0]

    @property
    def height(self):
        return self.frames.shape[1]

    @property
    def width(self):
        return self.frames.shape[2]

    def read(self, indices, crop=None):
        top, left, height, width = crop or (0, 0, self.height, self.width)
        return self.frames[list(indices)][:, top : top + height, left : left + width]


@pytest.fixture
def array_clip():
    """Return a function that makes a clip of noise, different in every frame, in memory."""

    def make(name="noise", count=20, height=48, width=64, scenes=None, seed=0):
        frames = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)
        return ArrayClip(name, frames, scenes or ((0, count),))

    return make
