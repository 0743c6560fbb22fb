"""Small videos, clips and published data sets made on the spot."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from stvsr_jax.data import splits

# Clips of the small Vimeo-90k.
TRAIN_CLIPS = ("00001/0001", "00001/0002", "00002/0001")
TEST_CLIPS = ("00001/0266", "00001/0268")


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


@pytest.fixture
def write_noise():
    """Return a function that writes images of noise, all different, and returns them uint8 [N, H, W, 3]."""

    def write(folder, files, height, width, *, seed=0):
        folder.mkdir(parents=True)
        frames = np.random.default_rng(seed).integers(0, 256, (len(files), height, width, 3)).astype(np.uint8)
        for file, frame in zip(files, frames, strict=True):
            Image.fromarray(frame).save(folder / file, compress_level=1)
        return frames

    return write


@pytest.fixture
def vimeo(tmp_path, write_noise):
    """Return a folder in the layout of the extracted septuplet archive, and the frames by clip name."""
    root = tmp_path / "vimeo_septuplet"
    files = [f"im{n}.png" for n in range(1, 8)]
    frames = {
        name: write_noise(root / "sequences" / name, files, 40, 168, seed=seed)
        for seed, name in enumerate((*TRAIN_CLIPS, *TEST_CLIPS))
    }
    (root / "sep_trainlist.txt").write_text("".join(f"{name}\n" for name in TRAIN_CLIPS))
    (root / "sep_testlist.txt").write_text("".join(f"{name}\n" for name in TEST_CLIPS) + "\n")
    return root, frames


@pytest.fixture
def gopro(tmp_path, write_noise):
    """Return a folder in the layout of GOPRO_Large_all, and the frames by sequence name."""
    root = tmp_path / "GOPRO_Large_all"
    files = [f"{n:06d}.png" for n in range(1, 5)]
    places = [
        ("train", "GOPR0372_07_00"),
        ("train", "GOPR0372_07_01"),
        *(("test", name) for name in sorted(splits.GOPRO_TEST)),
    ]
    frames = {
        name: write_noise(root / split / name, files, 24, 32, seed=seed)
        for seed, (split, name) in enumerate(places)
    }
    return root, frames


@pytest.fixture
def adobe(tmp_path, draw_frames, write_video):
    """Return a folder of videos with the names of Adobe240, those that train called v1 and v2."""
    root = tmp_path / "original_high_fps_videos"
    root.mkdir()
    frames = draw_frames(11, 32, 48)
    for name in sorted(splits.ADOBE240_TEST | splits.ADOBE240_VALIDATION):
        write_video(root / f"{name}.m4v", frames[:2])
    for name in ("v1", "v2"):
        write_video(root / f"{name}.mp4", frames, options={"crf": "10"})
    return root
