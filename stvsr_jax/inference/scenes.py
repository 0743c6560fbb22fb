"""Scene ends in a stream of frames, with the cut detector of `stvsr_jax.video.scene_cuts`."""

import collections
from collections.abc import Iterable, Iterator

import numpy as np

from stvsr_jax import stages
from stvsr_jax.video import colour, scene_cuts
from stvsr_jax.video.sequential_reader import TimedFrame

# The detector looks at the changes of eight frames on each side of a place.
_BEHIND = 9
_AHEAD = 8
# Frames that are reduced for it at a time.
_WORKERS = 2


def mark_scene_ends(frames: Iterable[TimedFrame], *, threshold: float) -> Iterator[tuple[TimedFrame, bool]]:
    """Yields every frame with whether it is the last of its scene; the clip's last frame is.

    The result is that of `scene_cuts.find_cuts` on the whole clip, flashes being scenes, from eight frames of look-ahead.

    Args:
      frames: in order.
      threshold: of `find_cuts`, 0..255; 0 looks for no cuts.
    """
    thumbnails = collections.deque(maxlen=_BEHIND + 1 + _AHEAD)
    waiting = collections.deque()  # frames of which it is not decided yet
    number_of_first = 0  # clip index of thumbnails[0]
    count = 0

    def begins_scene(index):  # whether a cut lies right before this frame
        place = index - number_of_first
        if scene_cuts.frame_change(thumbnails[place - 1], thumbnails[place]) <= threshold:
            return False  # as `find_cuts` would find, which looks at all the others, too
        cuts = scene_cuts.find_cuts(np.stack(thumbnails), threshold=threshold, is_flash_cut=True)
        return place in cuts

    for frame, small in _reduce(frames) if threshold else ((frame, None) for frame in frames):
        waiting.append(frame)
        count += 1
        if threshold:
            number_of_first += len(thumbnails) == thumbnails.maxlen
            thumbnails.append(small)
        if len(waiting) > (_AHEAD + 1 if threshold else 1):
            next_index = count - len(waiting) + 1
            yield waiting.popleft(), bool(threshold) and begins_scene(next_index)
    while len(waiting) > 1:
        next_index = count - len(waiting) + 1
        yield waiting.popleft(), bool(threshold) and begins_scene(next_index)
    if waiting:
        yield waiting.popleft(), True


def _reduce(frames):
    """Yields every frame with its thumbnail."""
    return stages.map_ahead(
        lambda frame: (frame, scene_cuts.thumbnail(colour.to_8_bits(frame.image))),
        frames,
        workers=_WORKERS,
        ahead=_WORKERS,
    )
