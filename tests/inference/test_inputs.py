"""Which output every input gets."""

import pytest

from stvsr_jax.inference.inputs import pair_up


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("v10.mp4", "v9.MOV", "notes.txt", ".hidden.mp4"):
        (folder / name).touch()
    return folder


def test_one_input_keeps_its_output(tmp_path, videos):
    output = tmp_path / "out.mkv"
    assert pair_up([videos / "v10.mp4"], output, suffix=".mp4") == ([(videos / "v10.mp4", output)], False)
    (tmp_path / "pictures").mkdir()
    assert pair_up([tmp_path / "pictures"], output, suffix=".mp4")[1] is False


def test_a_folder_of_videos_becomes_a_folder(tmp_path, videos):
    output = tmp_path / "out"
    expected = [(videos / "v9.MOV", output / "v9.mp4"), (videos / "v10.mp4", output / "v10.mp4")]
    assert pair_up([videos], output, suffix=".mp4") == (expected, True)


def test_shards_share_the_inputs(tmp_path):
    files = [tmp_path / f"{n}.mp4" for n in range(5)]
    for file in files:
        file.touch()
    shares = [pair_up(files, tmp_path / "out", suffix="", shard=(n, 3))[0] for n in range(3)]
    assert [[int(source.stem) for source, _ in share] for share in shares] == [[0, 3], [1, 4], [2]]
    assert shares[2] == [(files[2], tmp_path / "out" / "2")]


def test_shards_beyond_the_inputs_have_none(tmp_path, videos):
    assert pair_up([videos], tmp_path / "out", suffix=".mp4", shard=(3, 4)) == ([], True)


def test_posters_and_thumbnails_beside_videos_are_left_out(tmp_path, videos):
    expected = [videos / "v9.MOV", videos / "v10.mp4"]
    for name in ("poster.webp", "cover.jpg", "v9.webp", "v10.webp", "v10-thumb2.png", "v10-thumb3.png"):
        (videos / name).touch()
    assert [source for source, _ in pair_up([videos], tmp_path / "out", suffix=".mp4")[0]] == expected


def test_dead_links_are_inputs_that_will_fail_not_none(tmp_path, videos):
    (videos / "gone.mp4").symlink_to(videos / "nowhere.mp4")
    assert [source.name for source, _ in pair_up([videos], tmp_path / "out", suffix=".mp4")[0]] == [
        "gone.mp4",
        "v9.MOV",
        "v10.mp4",
    ]


def test_dots_in_names_stay(tmp_path):
    (tmp_path / "my.first.clip.mkv").touch()
    for name in ("v1.0", "v1.1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()
    files = [tmp_path / name for name in ("my.first.clip.mkv", "v1.0", "v1.1")]
    for suffix in ("", ".mp4"):
        targets = [target for _, target in pair_up(files, tmp_path / "out", suffix=suffix)[0]]
        assert [t.name for t in targets] == [f"{n}{suffix}" for n in ("my.first.clip", "v1.0", "v1.1")]


def test_no_output_is_an_input(tmp_path, videos):
    with pytest.raises(ValueError, match="output folder .*videos is the input folder"):
        pair_up([videos], tmp_path / "videos" / ".." / "videos", suffix=".mkv")
    files = [videos / "v9.MOV", videos / "v10.mp4"]
    with pytest.raises(ValueError, match="v10.mp4 of .*v10.mp4 is an input"):
        pair_up(files, videos, suffix=".mp4")
    # Beside them, under other names, they may lie.
    assert [t.name for _, t in pair_up(files, videos, suffix=".mkv")[0]] == ["v9.mkv", "v10.mkv"]
    link = tmp_path / "link"
    link.symlink_to(videos)
    with pytest.raises(ValueError, match="is the input folder"):
        pair_up([videos], link, suffix=".mp4")


def test_ambiguous_inputs_are_named(tmp_path, videos):
    with pytest.raises(ValueError, match="none.mp4 does not exist"):
        pair_up([tmp_path / "none.mp4"], tmp_path / "out", suffix="")
    (videos / "v9.mkv").touch()
    with pytest.raises(ValueError, match="one output, .*v9.mp4"):
        pair_up([videos], tmp_path / "out", suffix=".mp4")
    for name in ("a1.png", "a2.png"):
        (videos / name).touch()
    with pytest.raises(ValueError, match="holds videos and pictures"):
        pair_up([videos], tmp_path / "out", suffix=".mp4")
    with pytest.raises(ValueError, match="must be a folder"):
        pair_up([videos / "v9.mkv", videos / "v10.mp4"], videos / "v9.MOV", suffix=".mp4")
    for suffix in ("mp4", ".", ".a/b", "/.mp4"):
        with pytest.raises(ValueError, match="suffix=.* must be empty, or a dot and"):
            pair_up([videos / "v9.mkv", videos / "v10.mp4"], tmp_path / "out", suffix=suffix)
    with pytest.raises(ValueError, match="shard=3/3"):
        pair_up([videos / "v9.mkv"], tmp_path / "out", suffix="", shard=(3, 3))
