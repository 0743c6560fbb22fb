"""Adobe240 is split by the names of its videos, which may be extracted to frames."""

import pytest

from stvsr_jax.data.builders.adobe240 import Adobe240
from stvsr_jax.data.builders.source_clip import ImageClip, VideoClip
from stvsr_jax.data.splits import ADOBE240_TEST, ADOBE240_VALIDATION


@pytest.fixture
def find(tmp_path):
    def find(source, **options):
        return Adobe240(data_dir=tmp_path / "data", **options).find_clips(source)

    return find


def test_videos_are_split_by_name(adobe, find):
    found = find(adobe)
    assert {clip.name for clip in found["test"]} == ADOBE240_TEST and len(ADOBE240_TEST) == 17
    assert {clip.name for clip in found["validation"]} == ADOBE240_VALIDATION and len(
        ADOBE240_VALIDATION
    ) == 16
    assert [clip.name for clip in found["train"]] == ["v1", "v2"]
    assert all(isinstance(clip, VideoClip) for clips in found.values() for clip in clips)
    frames = list(found["train"][0].frames())
    assert len(frames) == found["train"][0].num_frames == 11 and frames[0].shape == (32, 48, 3)


def test_folders_of_frames_stand_for_videos(adobe, find, write_noise):
    (adobe / "IMG_0003.m4v").unlink()
    frames = write_noise(adobe / "IMG_0003", ["frame_9.png", "frame_10.png"], 16, 24)
    (clip,) = [clip for clip in find(adobe)["test"] if clip.name == "IMG_0003"]
    assert isinstance(clip, ImageClip)
    assert [frame.tobytes() for frame in clip.frames()] == [frame.tobytes() for frame in frames]


def test_missing_videos_are_named_unless_they_may_be(adobe, find):
    (adobe / "IMG_0003.m4v").unlink()
    (adobe / "GOPR9650.m4v").unlink()
    with pytest.raises(
        ValueError, match="lacks 2 of what belongs to adobe240: GOPR9650, IMG_0003. .*--partial"
    ):
        find(adobe)
    found = find(adobe, is_partial=True)
    assert (len(found["validation"]), len(found["test"])) == (15, 16)


def test_doubled_and_broken_videos_are_named(adobe, find, write_noise):
    (adobe / "v2.mp4").write_bytes(b"not a video")
    with pytest.raises(ValueError, match="v2.mp4 cannot be read as a video"):
        find(adobe)
    write_noise(adobe / "v1", ["0.png"], 16, 24)
    with pytest.raises(ValueError, match="holds v1 twice"):
        find(adobe)


def test_other_layouts_are_answered_with_the_one_expected(find, tmp_path):
    for source in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(
            ValueError, match="is not adobe240 as it is published; expected the extracted videos"
        ):
            find(source)
