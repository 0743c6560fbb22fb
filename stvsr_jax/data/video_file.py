"""A video file as a clip."""

import dataclasses
import os
from collections.abc import Sequence

import av
import numpy as np

from stvsr_jax.data import clip
from stvsr_jax.video import scene_cuts
from stvsr_jax.video.index import DEFAULT_MAX_KEYFRAME_GAP, load_index
from stvsr_jax.video.random_reader import VideoIndex, borrow_reader


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A video file, upright; see `clip.Clip`. The pixel aspect the container asks for is not applied."""

    name: str
    index: VideoIndex
    scenes: tuple[tuple[int, int], ...]

    @property
    def num_frames(self) -> int:
        return self.index.num_frames

    @property
    def height(self) -> int:
        return self.index.height

    @property
    def width(self) -> int:
        return self.index.width

    def read(self, indices: Sequence[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Returns frames as uint8 [N, h, w, 3] RGB, in the order of `indices`; see `clip.Clip`.

        Raises:
          ValueError: the file cannot be read any more, or the indices or the crop do not fit.
        """
        clip.check_read(self, indices, crop)
        try:
            with borrow_reader(self.index) as reader:
                return reader.read(indices, crop)
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{self.index.media}, frames of {self.name}, can no longer be read: {error}"
            ) from error


def open_video(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    cache_gb: float = 0.0,
    max_keyframe_gap: int = DEFAULT_MAX_KEYFRAME_GAP,
    cut_threshold: float | None = scene_cuts.DEFAULT_THRESHOLD,
) -> VideoFile:
    """Opens a video file; decodes it once if it has not been seen before.

    Args:
      path: any container and codec that PyAV reads.
      name: the clip's name, by default the file's.
      cache_dir: where to keep what was found; see `files.default_cache_dir`.
      cache_gb: see `video.index.load_index`.
      max_keyframe_gap: see `video.index.load_index`.
      cut_threshold: see `scene_cuts.find_cuts`; None takes the whole video as one scene.
    """
    index, thumbnails = load_index(
        path, cache_dir=cache_dir, cache_gb=cache_gb, max_keyframe_gap=max_keyframe_gap
    )
    cuts = [] if cut_threshold is None else scene_cuts.find_cuts(thumbnails, threshold=cut_threshold)
    scenes = scene_cuts.scenes_between(cuts, index.num_frames)
    return VideoFile(name=name or os.path.basename(path), index=index, scenes=scenes)
