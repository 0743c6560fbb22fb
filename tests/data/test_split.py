"""Training and validation never share a frame."""

import numpy as np
import pytest

from stvsr_jax.data.split import split_by_clip, split_by_time
from stvsr_jax.data.windows import Windows


def _frames(clips, span):
    windows = Windows(clips, span)
    found = set()
    for i in range(len(windows)):
        clip, start = windows[i]
        found |= {(clips[clip].name, n) for n in range(start, start + span)}
    return found


def test_windows_share_no_frames(array_clip):
    clips = [array_clip("a", 50, scenes=((0, 20), (20, 50))), array_clip("b", 31), array_clip("c", 12)]
    training, validation = split_by_time(clips, fraction=0.2, span=7)
    assert not _frames(training, 7) & _frames(validation, 7)
    assert [c.name for c in validation] == ["a", "b"]
    assert training[0].scenes == ((0, 20), (20, 40)) and validation[0].scenes == ((40, 50),)
    # A fifth of b is 6 frames; a window needs 7. Half of c would be too short for either side.
    assert validation[1].scenes == ((24, 31),)
    assert training[2].scenes == ((0, 12),)


def test_restricted_clip_reads_the_same_frames(array_clip):
    clip = array_clip("a", 30)
    _, (part,) = split_by_time([clip], fraction=0.3)
    np.testing.assert_array_equal(part.read([25, 29]), clip.frames[[25, 29]])
    assert (part.num_frames, part.height, part.width) == (30, 48, 64)


def test_by_clip_keeps_whole_clips(array_clip):
    clips = [array_clip(str(n), 8) for n in range(10)]
    training, validation = split_by_clip(clips, fraction=0.2)
    assert [c.name for c in validation] == ["2", "7"]
    assert len(training) == 8 and not set(training_names(training)) & {"2", "7"}
    assert len(split_by_clip(clips[:2], fraction=0.01)[1]) == 1
    assert len(split_by_clip(clips[:2], fraction=0.99)[0]) == 1


def training_names(clips):
    return [clip.name for clip in clips]


def test_wrong_fractions_are_named(array_clip):
    for fraction in (0, 1, -0.5):
        with pytest.raises(ValueError, match=f"fraction={fraction}"):
            split_by_time([array_clip()], fraction=fraction)
    with pytest.raises(ValueError, match="cannot be split by clip"):
        split_by_clip([array_clip()], fraction=0.5)
