"""Clips yield every frame, and name all that cannot be read."""

import zipfile

import numpy as np
import pytest

from stvsr_jax.data.builders import source_clip
from stvsr_jax.data.builders.source_clip import ImageClip, UnusableClip, VideoClip, ZipMember, ZippedClip


def test_all_unreadable_images_are_named(tmp_path, write_noise):
    files = [f"im{n}.png" for n in range(1, 6)]
    frames = write_noise(tmp_path / "clip", files, 16, 24)
    data = (tmp_path / "clip" / "im2.png").read_bytes()
    (tmp_path / "clip" / "im2.png").write_bytes(data[:-200])
    (tmp_path / "clip" / "im4.png").write_bytes(b"")
    write_noise(tmp_path / "other", ["im5.png"], 24, 16)
    (tmp_path / "other" / "im5.png").replace(tmp_path / "clip" / "im5.png")
    found, clip = [], ImageClip("clip", str(tmp_path / "clip"), (*files, "im6.png"))
    with pytest.raises(UnusableClip) as error:
        for frame in clip.frames():
            found.append(frame)
    np.testing.assert_array_equal(found, frames[[0, 2]])
    message = str(error.value)
    assert "clip/im2.png (" in message and "clip/im4.png (cannot be identified as an image)" in message
    assert "clip/im5.png (16x24 pixels, the clip's first frame has 24x16)" in message
    assert "clip/im6.png ([Errno 2]" in message and "im1.png" not in message


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def archive(request, tmp_path, write_noise):
    """Return the path of a zip archive, its members and their frames."""
    frames = write_noise(tmp_path / "clip", ["a.png", "b.png"], 16, 24)
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w", request.param) as file:
        for name in ("a.png", "b.png"):
            file.write(tmp_path / "clip" / name, f"folder/{name}")
        return path, tuple(map(ZipMember.of, file.infolist())), frames


def test_archive_members_are_read_in_place(archive):
    path, members, frames = archive
    np.testing.assert_array_equal(list(ZippedClip("clip", str(path), members).frames()), frames)


@pytest.mark.parametrize("position", [0, 300])
def test_damaged_archive_member_is_named(archive, position):
    path, members, frames = archive
    data = bytearray(path.read_bytes())
    data[members[1].offset + position] ^= 255
    path.write_bytes(data)
    found = []
    with pytest.raises(UnusableClip, match=r"frames that cannot be used: folder/b.png \("):
        for frame in ZippedClip("clip", str(path), members).frames():
            found.append(frame)
    np.testing.assert_array_equal(found, frames[:1])


def test_unusual_compression_is_named():
    info = zipfile.ZipInfo("a.png")
    info.compress_type, info.header_offset = zipfile.ZIP_LZMA, 0
    with pytest.raises(ValueError, match="a.png is encrypted or compressed in an unusual way"):
        ZipMember.of(info)


def test_video_that_ends_early_is_named(tmp_path, draw_frames, write_video):
    path = write_video(tmp_path / "a.mkv", draw_frames(20, 32, 48), options={"g": "5"})
    whole = source_clip.open_video(path, "a")
    count = len(list(VideoClip("a", str(path), 20).frames()))
    assert count == 20 and whole.num_frames in (0, 20)  # Matroska does not say
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnusableClip, match="a.mkv (is cut short: |cannot be decoded at)"):
        list(VideoClip("a", str(path), 20).frames())


def test_video_of_changing_facts_is_another(tmp_path, draw_frames, write_video):
    path = write_video(tmp_path / "a.mp4", draw_frames(4, 32, 48))
    before = source_clip.open_video(path, "a").facts()
    assert source_clip.open_video(path, "a").facts() == before
    write_video(path, draw_frames(5, 32, 48))
    assert source_clip.open_video(path, "a").facts() != before


def test_numbered_frames_must_be_complete(tmp_path, write_noise):
    write_noise(tmp_path / "a", [f"frame_{n}.png" for n in (3, 4, 5, 9, 10)], 8, 8)
    with pytest.raises(ValueError, match="a lacks 3 frames between its first and last: 6, 7, 8"):
        source_clip.open_image_folder(tmp_path / "a", "a")
    with pytest.raises(ValueError, match="holds no images"):
        source_clip.open_image_folder(tmp_path, "a")
